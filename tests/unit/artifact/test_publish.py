"""The publish stage: one job makes one version, however often it is killed and run again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelmill import storage, workspace
from modelmill.artifact import open as opening
from modelmill.artifact import publish
from modelmill.artifact.errors import DigestMismatch, VariantNotFound
from modelmill.artifact.registry import Registry
from modelmill.storage.file import FileStore
from tests.unit.artifact.helpers import SIGNATURE, job_in

WRITES = ("write_bytes", "create_bytes", "replace_bytes", "upload", "copy", "remove", "remove_tree")


class Killed(BaseException):
    """Stands for the process's end: nothing catches it."""


@contextmanager
def killed_at(number: int, *, after: bool) -> Iterator[Callable[[], int]]:
    """Ends the run at its n-th write, just before or just after it took effect; yields how many there were."""
    count, nested = 0, False

    def breaking(original: Callable[..., Any]) -> Callable[..., Any]:
        def write(*arguments: Any, **options: Any) -> Any:
            nonlocal count, nested
            if nested:
                return original(*arguments, **options)
            count += 1
            if count == number and not after:
                raise Killed
            nested = True
            try:
                result = original(*arguments, **options)
            finally:
                nested = False
            if count == number:
                raise Killed
            return result

        return write

    with pytest.MonkeyPatch.context() as patch:
        for name in WRITES:
            patch.setattr(FileStore, name, breaking(getattr(FileStore, name)))
        yield lambda: count


def registry_of(job: Any) -> Registry:
    return Registry(url=job.registry, namespace=job.namespace)


def test_a_version_holds_all_that_is_known(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    result = publish.run(job)
    assert result.ok, result.message
    assert result.published is not None
    assert (result.published.version, result.published.channel) == (1, "stable")
    assert result.published.variants == ("dense", "int8")
    manifest = registry_of(job).read_manifest("digits", 1, digest=result.published.digest).manifest
    assert manifest.signature == SIGNATURE
    assert manifest.hyperparameters == {"lr": "0.1"}
    assert (manifest.lineage.job, manifest.lineage.uid, manifest.lineage.seed) == ("train-digits", "uid-1", 7)
    assert manifest.lineage.data == {"test": "sha256:" + "0" * 64}
    int8 = manifest.variant("int8")
    assert int8 is not None
    assert (int8.bytes, int8.tier, int8.metrics, int8.latency_millis) == (1300, "Light", {"accuracy": 0.975}, 0.2)
    assert [file.path for file in manifest.files] == [
        "code/recipe.py",
        "dense.safetensors",
        "int8.safetensors",
        "evaluation.json",
    ]


def test_what_a_search_has_found_is_published_beside_its_variant(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    for end in ("search.json", "search.png"):
        storage.write_bytes(workspace.report_uri(job, "int8", end), end.encode())
    result = publish.run(job)
    assert result.published is not None, result.message
    registry = registry_of(job)
    manifest = registry.read_manifest("digits", 1, digest=result.published.digest).manifest
    assert {"int8.search.json", "int8.search.png"} < {file.path for file in manifest.files}
    assert storage.read_bytes(storage.join(registry.version_url("digits", 1), "int8.search.png")) == b"search.png"


def test_only_what_passed_is_published_and_the_workspace_keeps_the_figures(tmp_path: Path) -> None:
    job = replace(job_in(tmp_path), passed=("int8",))
    result = publish.run(job)
    assert result.published is not None
    assert result.published.variants == ("int8",)
    left = [file.path for file in storage.files(workspace.workspace(job))]
    assert left == ["evaluation.json", "published.json"]


def test_a_job_that_was_not_evaluated_publishes_the_weights_that_training_left(tmp_path: Path) -> None:
    job = replace(job_in(tmp_path), passed=("dense",))
    storage.remove(workspace.variant_uri(job, "dense"))
    storage.remove(workspace.evaluation_uri(job))
    result = publish.run(job)
    assert result.published is not None, result.message
    manifest = registry_of(job).read_manifest("digits", 1, digest=result.published.digest).manifest
    assert [(variant.name, variant.bytes, variant.metrics) for variant in manifest.variants] == [("dense", 5000, {})]


@pytest.mark.parametrize("after", [False, True], ids=["before the write", "after the write"])
def test_killed_at_any_write_and_run_again_it_publishes_one_version(after: bool, tmp_path: Path) -> None:
    whole = job_in(tmp_path / "whole")
    with killed_at(0, after=after) as writes:
        assert publish.run(whole).ok
    total = writes()
    assert total > 8
    for number in range(1, total + 1):
        job = job_in(tmp_path / str(number))
        with killed_at(number, after=after), pytest.raises(Killed):
            publish.run(job)
        registry = registry_of(job)
        for version in registry.versions("digits"):  # what is seen is whole, also before the second run
            registry.read_manifest("digits", version)
        result = publish.run(job)
        assert result.ok, result.message
        assert result.published is not None
        assert registry.versions("digits") == [result.published.version]
        assert registry.require_channel("digits", "stable").version == result.published.version
        into = tmp_path / str(number) / "opened"
        opening.open_version(
            job.registry,
            namespace="team",
            model="digits",
            version=result.published.version,
            digest=result.published.digest,
            variant="int8",
            into=into,
        )


def test_a_second_run_after_a_rollback_does_not_promote_again(tmp_path: Path) -> None:
    registry = registry_of(job_in(tmp_path))
    publish.run(job_in(tmp_path, uid="uid-1"))
    second = job_in(tmp_path, uid="uid-2")
    publish.run(second)
    registry.rollback("digits", "stable")
    again = publish.run(second)
    assert again.ok
    assert again.published is not None
    assert (again.published.version, again.published.channel) == (2, None)
    assert "was moved by somebody else" in (again.message or "")
    assert registry.require_channel("digits", "stable").version == 1
    assert registry.versions("digits") == [1, 2]


def test_old_versions_are_removed_after_publishing(tmp_path: Path) -> None:
    for number in range(1, 6):
        result = publish.run(job_in(tmp_path, uid=f"uid-{number}", keep=2))
    assert registry_of(job_in(tmp_path)).versions("digits") == [4, 5]
    assert "removed old versions 3" in (result.message or "")


def test_a_job_whose_claim_was_removed_starts_over_with_another_number(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    with killed_at(3, after=True), pytest.raises(Killed):
        publish.run(job)
    storage.remove(f"{registry_of(job).version_url('digits', 1)}/claim")
    lost = publish.run(job)
    assert (lost.ok, lost.reason, lost.fatal) == (False, "ClaimLost", False)
    again = publish.run(job)
    assert again.published is not None
    assert registry_of(job).versions("digits") == [again.published.version]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"passed": ()}, "no variant passed its gates"),
        ({"passed": ("int4",)}, "variant 'int4' passed, but its weights"),
        ({"entrypoint": None}, "spec.recipe.entrypoint is not set"),
    ],
)
def test_what_cannot_become_a_version_is_refused_in_words(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    result = publish.run(replace(job_in(tmp_path), **change))
    assert (result.ok, result.reason, result.fatal) == (False, "NotPublishable", True)
    assert words in (result.message or "")


def open_it(job: Any, digest: str, into: Path, *, variant: str = "dense", version: int = 1) -> opening.OpenedVersion:
    return opening.open_version(
        job.registry, namespace="team", model="digits", version=version, digest=digest, variant=variant, into=into
    )


def test_an_opened_version_rebuilds_its_module_from_checked_files(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    result = publish.run(job)
    assert result.published is not None
    opened = open_it(job, result.published.digest, tmp_path / "into")
    module = opened.build()[0]
    assert type(module).__name__ == "Linear"
    assert opened.weights.read_bytes() == b"d" * 5000
    with pytest.raises(VariantNotFound, match="has no variant 'int4'; it has dense, int8"):
        open_it(job, result.published.digest, tmp_path / "into", variant="int4")


@pytest.mark.parametrize("name", ["dense.safetensors", "code/recipe.py"])
@pytest.mark.parametrize("change", ["flip", "grow", "cut"])
def test_a_file_changed_in_the_store_is_never_used(name: str, change: str, tmp_path: Path) -> None:
    job = job_in(tmp_path)
    result = publish.run(job)
    assert result.published is not None
    path = tmp_path / "registry/team/digits/1" / name
    data = path.read_bytes()
    path.write_bytes({"flip": data[:-1] + bytes([data[-1] ^ 1]), "grow": data + b"!", "cut": data[:-1]}[change])
    with pytest.raises(DigestMismatch, match=name):
        open_it(job, result.published.digest, tmp_path / "into")
