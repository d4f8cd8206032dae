"""A version with machine code: a copy of the one before and a file, that other readers pass over."""

import json
from pathlib import Path

import pytest

from modelmill import storage
from modelmill.artifact import manifest
from modelmill.artifact.amend import publish_compiled
from modelmill.artifact.compiled import Compiled, Measured
from modelmill.artifact.errors import DigestMismatch, ManifestError
from modelmill.artifact.registry import Committed, Registry
from tests.unit.artifact.helpers import published, registry_at

MEASURED = Measured(rows=8, length=16, millis=0.5, served_millis=1.0)


def compiled(*, torch: str = "2.15.0", instructions: tuple[str, ...] = ("avx2", "fma")) -> Compiled:
    return Compiled(
        file="x.so",
        torch=torch,
        instructions=instructions,
        tensors="sha256:1",
        dimensions=(("0.0", "4"),),
        limits={"0.0": (1, 512)},
        measured=(MEASURED,),
    )


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return registry_at(f"file://{tmp_path}/registry")


def amended(registry: Registry, base: Committed, tmp_path: Path, facts: Compiled, library: bytes = b"code") -> Committed:
    path = tmp_path / "library"
    path.write_bytes(library)
    return publish_compiled(registry, base.manifest, variant="dense", compiled=facts, library=path)


def libraries(registry: Registry, committed: Committed) -> list[bytes]:
    url = registry.version_url("digits", committed.manifest.version)
    return [storage.read_bytes(storage.join(url, one.file)) for one in committed.manifest.variants[0].compiled]


def test_everything_else_stays_as_it_was(registry: Registry, tmp_path: Path) -> None:
    base = published(registry)
    done = amended(registry, base, tmp_path, compiled())
    read = registry.read_manifest("digits", 2, digest=done.digest).manifest
    assert read == done.manifest and read.lineage == base.manifest.lineage and read.files[:-1] == base.manifest.files
    (found,) = read.variants[0].compiled
    assert found.file == read.files[-1].path and found.measured == (MEASURED,) and found.limits == {"0.0": (1, 512)}
    assert libraries(registry, done) == [b"code"]
    assert registry.read_manifest("digits", 1) == base


def test_machines_of_other_kinds_are_added_and_the_same_kind_is_replaced(registry: Registry, tmp_path: Path) -> None:
    done = published(registry)
    for number, facts in enumerate((compiled(), compiled(instructions=("avx512f",)), compiled(torch="2.16.0"), compiled())):
        done = amended(registry, done, tmp_path, facts, library=b"%d" % number)
    assert libraries(registry, done) == [b"1", b"2", b"3"]
    files = [file.path for file in done.manifest.files]
    assert len(set(files)) == len(files) == 4


def test_a_version_that_was_changed_is_not_copied(registry: Registry, tmp_path: Path) -> None:
    base = published(registry)
    storage.write_bytes(storage.join(registry.version_url("digits", 1), "dense.safetensors"), b"other..")
    with pytest.raises(DigestMismatch):
        amended(registry, base, tmp_path, compiled())
    assert registry.versions("digits") == [1] == registry.numbers("digits")


def test_a_manifest_of_before_is_read(registry: Registry) -> None:
    raw = json.loads(manifest.encode(published(registry).manifest))
    assert raw["variants"][0].pop("compiled") == []
    assert manifest.parse(json.dumps(raw).encode(), where="here").variants[0].compiled == ()


def test_a_library_that_is_not_among_the_files_is_refused(registry: Registry, tmp_path: Path) -> None:
    raw = json.loads(manifest.encode(amended(registry, published(registry), tmp_path, compiled()).manifest))
    raw["variants"][0]["compiled"][0]["file"] = "../../other/1/compiled/dense-0.so"
    with pytest.raises(ManifestError, match=r"compiled '../../other.*' is not listed in files"):
        manifest.parse(json.dumps(raw).encode(), where="here")
