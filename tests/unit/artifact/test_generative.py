"""Generative models in the registry: folders are published as they are, checked when opened, and refused when they are hostile.

That vLLM can load them is not tested here: it needs vLLM.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from modelmill.artifact.errors import DigestMismatch, GenerativeModel, NotPublishable, VariantNotFound
from modelmill.artifact.generative import NotGenerative, open_folder
from modelmill.artifact.import_ import Source, import_model
from modelmill.artifact.open import open_version
from modelmill.artifact.registry import Committed, Registry
from modelmill.artifact.resolve import resolve
from modelmill.cli.__main__ import app
from modelmill.contract.jobfile import Resolve, Selection
from tests.unit.artifact import helpers
from tests.unit.artifact.generative import CONFIG, safetensors, write_folder


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return helpers.registry_at(f"file://{tmp_path}/registry")


@pytest.fixture
def published(registry: Registry, tmp_path: Path) -> Committed:
    return publish(registry, write_folder(tmp_path / "source", shards=True))


def publish(registry: Registry, folder: Path) -> Committed:
    return import_model(registry, "llama", source=Source(generative=folder), channel="stable")


def opened(registry: Registry, published: Committed, into: Path) -> Path:
    return open_folder(registry, model="llama", version=1, digest=published.digest, into=into)


def test_a_folder_becomes_a_version_that_says_that_it_is_generative(published: Committed) -> None:
    manifest = published.manifest
    assert (manifest.engine, manifest.code.kind, manifest.signature.inputs) == ("vllm", "huggingface", ())
    (variant,) = manifest.variants
    assert (variant.name, variant.file, variant.more_files) == ("original", "model/a.safetensors", ("model/b.safetensors",))
    assert variant.bytes == len(safetensors("x", "y")) + len(safetensors("z"))
    assert not any(file.path.endswith("README.md") for file in manifest.files)


def test_an_opened_version_has_the_files_of_the_folder(registry: Registry, published: Committed, tmp_path: Path) -> None:
    folder = opened(registry, published, tmp_path / "into")
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "source" / path.name).read_bytes()
    assert {path.name for path in folder.iterdir()} == {path.name for path in (tmp_path / "source").iterdir()} - {"README.md"}
    assert (folder / "a.safetensors").is_symlink()  # on a volume nothing large is copied
    assert not (folder / "config.json").is_symlink()


@pytest.mark.parametrize("name", ["config.json", "b.safetensors"])
def test_a_changed_file_is_not_opened(registry: Registry, published: Committed, tmp_path: Path, name: str) -> None:
    stored = Path(registry.version_url("llama", 1).removeprefix("file://"), "model", name)
    stored.write_bytes(stored.read_bytes()[:-1] + b"!")
    with pytest.raises(DigestMismatch, match=name):
        opened(registry, published, tmp_path / "into")


def test_it_resolves_to_its_weights_and_its_engine(registry: Registry, published: Committed) -> None:
    for name in ("dense", "original"):  # dense is what spec.variant says when nothing is set
        found = resolve(registry, model="llama", wish=Resolve(channel="stable", selection=Selection(name=name)))
        assert (found.version, found.variant, found.engine) == (1, "original", "vllm")
    for wish in (Selection(name="int8"), Selection(tier="Light"), Selection(max_drop=0.1)):
        with pytest.raises(VariantNotFound, match=r"is generative.*remove spec\.variant"):
            resolve(registry, model="llama", wish=Resolve(version=1, selection=wish))


def test_what_needs_a_module_says_that_there_is_none(registry: Registry, published: Committed, tmp_path: Path) -> None:
    with pytest.raises(GenerativeModel, match="vllm serves it, there is no module here to load, measure, compile or export"):
        open_version(
            registry.url,
            namespace=registry.namespace,
            model="llama",
            version=1,
            digest=published.digest,
            variant="original",
            into=tmp_path,
        )
    other = helpers.published(registry)
    with pytest.raises(NotGenerative, match="vLLM cannot serve it"):
        open_folder(registry, model="digits", version=1, digest=other.digest, into=tmp_path / "into")


def change(path: str, content: Any) -> Callable[[Path], object]:
    return lambda folder: (folder / path).write_text(content if isinstance(content, str) else json.dumps(content))


def drop(path: str) -> Callable[[Path], object]:
    return lambda folder: (folder / path).unlink()


def link(path: str, target: str) -> Callable[[Path], object]:
    def harm(folder: Path) -> None:
        (folder / path).unlink()
        (folder / path).symlink_to(target)

    return harm


def pickled(folder: Path) -> None:
    (folder / "a.safetensors").rename(folder / "pytorch_model.bin")
    (folder / INDEX).unlink()


def pickled_by_index(folder: Path) -> None:
    pickled(folder)
    change(INDEX, PICKLED)(folder)


INDEX = "model.safetensors.index.json"
OUTSIDE = {"weight_map": {"x": "../registry/a.safetensors"}}
PICKLED = {"weight_map": {"x": "pytorch_model.bin"}}


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (drop("config.json"), "a config.json with 'architectures' is needed"),
        (change("config.json", "[]"), "a config.json with 'architectures' is needed"),
        (change("config.json", "{"), "not JSON"),
        (change("config.json", "[" * 100_000), "not JSON"),
        (change("config.json", {"architectures": ["BertModel"]}), "BertModel does not generate text"),
        (change("config.json", {**CONFIG, "auto_map": {"AutoModel": "m.M"}}), "'auto_map' asks for code"),
        (change("tokenizer_config.json", {"a": [{"auto_map": ["t.T", None]}]}), "'auto_map' asks for code"),
        (drop("tokenizer.json"), "there is no tokenizer"),
        (drop("b.safetensors"), "the file 'b.safetensors' is not there"),
        (change("b.safetensors", "\x80\x04pickle"), "not a safetensors file"),
        (lambda folder: (folder / "b.safetensors").write_bytes(safetensors("z")[:-1]), "download it again"),
        (lambda folder: (folder / "b.safetensors").write_bytes(safetensors("other")), "it lacks z"),
        (change(INDEX, {}), "'weight_map' does not say"),
        (change(INDEX, OUTSIDE), "is not there"),
        (pickled, "only pytorch_model.bin are there: weights must be safetensors"),
        (pickled_by_index, "weights must be safetensors"),
        (link("tokenizer.json", "/etc/passwd"), "it is a link that leads out of the model's folder"),
    ],
)
def test_a_folder_that_is_broken_or_hostile_is_refused_before_anything_is_published(
    registry: Registry, tmp_path: Path, harm: Callable[[Path], object], told: str
) -> None:
    folder = write_folder(tmp_path / "source", shards=True)
    harm(folder)
    with pytest.raises(NotPublishable, match=told):
        publish(registry, folder)
    assert registry.numbers("llama") == []


def test_links_into_the_cache_of_downloads_are_followed(registry: Registry, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "models--m/snapshots/main")
    blobs = tmp_path / "models--m/blobs"
    blobs.mkdir()
    (folder / "model.safetensors").rename(blobs / "0a1b")
    (folder / "model.safetensors").symlink_to("../../blobs/0a1b")
    assert publish(registry, folder).manifest.variants[0].bytes == len(safetensors("x"))


def test_a_publication_that_fails_leaves_nothing(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("modelmill.storage.upload", fail)
    with pytest.raises(OSError, match="full"):
        publish(registry, write_folder(tmp_path / "source"))
    assert registry.numbers("llama") == []


def test_the_command_imports_and_lists_it(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "source")
    place = ["--registry", str(tmp_path / "registry")]
    done = CliRunner().invoke(app, ["import", "llama", "--generative", str(folder), *place])
    assert (done.exit_code, "published version 1 of model llama" in done.output) == (0, True)
    listed = CliRunner().invoke(app, ["versions", "llama", *place, "-o", "json"])
    assert [row["variant"] for row in json.loads(listed.output)] == ["original"]
    both = CliRunner().invoke(app, ["import", "llama", "--generative", str(folder), "--entrypoint", "a:B", *place])
    assert "a generative model is its folder alone" in str(both.exception)
