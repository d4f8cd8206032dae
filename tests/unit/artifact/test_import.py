"""Importing: a model from elsewhere becomes a version like any other, or is refused before anything is published."""

import json
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from modelmill.artifact import program
from modelmill.artifact.errors import NotPublishable
from modelmill.artifact.import_ import Source, import_model
from modelmill.artifact.open import OpenedVersion, open_version
from modelmill.artifact.registry import Committed, Registry
from modelmill.compress.apply import load_variant
from modelmill.failures import Fault
from tests.unit.artifact.helpers import RECIPE_SOURCE, SIGNATURE, registry_at


class Shifted(nn.Module):
    """A parameter, a buffer and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.register_buffer("shift", torch.ones(2))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        shifted: torch.Tensor = self.linear(image) + self.shift
        return shifted


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return registry_at(f"file://{tmp_path}/registry")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    folder = tmp_path / "recipe"
    folder.mkdir()
    (folder / "recipe.py").write_text(RECIPE_SOURCE)
    (folder / "..data").mkdir()
    (folder / "..data/recipe.py").write_text("raise SystemExit")
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    module = Shifted()
    path = tmp_path_factory.mktemp("program") / "shifted.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, while it traces
        batch = torch.export.Dim("batch")
        torch.export.save(torch.export.export(module, (torch.zeros(2, 4),), dynamic_shapes=({0: batch},)), path)
    return path, module


def opened(registry: Registry, committed: Committed, into: Path) -> OpenedVersion:
    manifest = committed.manifest
    return open_version(
        registry.url,
        namespace="team",
        model=manifest.model,
        version=manifest.version,
        digest=committed.digest,
        variant="dense",
        into=into,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_with_a_recipe_become_a_version_that_computes_the_same(
    dtype: torch.dtype, registry: Registry, recipe: Path, tmp_path: Path
) -> None:
    state = {name: tensor.to(dtype) for name, tensor in nn.Linear(4, 2).state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    source = Source(weights=tmp_path / "w.safetensors", recipe=recipe, entrypoint="recipe:Tiny")
    committed = import_model(registry, "tiny", source=source, channel="stable")
    assert committed.manifest.signature == SIGNATURE
    assert committed.manifest.lineage.origin == "import"
    assert [file.path for file in committed.manifest.files] == ["code/recipe.py", "dense.safetensors"]
    assert registry.require_channel("tiny", "stable").version == 1
    version = opened(registry, committed, tmp_path / "into")
    module = load_variant(version.build()[0], version.weights)
    rows = torch.randn(3, 4)
    expected = nn.functional.linear(rows, state["weight"].float(), state["bias"].float())
    torch.testing.assert_close(module(rows), expected)


def test_a_program_becomes_a_version_that_computes_the_same(
    exported: tuple[Path, nn.Module], registry: Registry, tmp_path: Path
) -> None:
    path, original = exported
    committed = import_model(registry, "shifted", source=Source(program=path), channel=None)
    assert registry.channel("shifted", "stable") is None
    signature = committed.manifest.signature
    assert [(t.name, t.datatype, t.shape) for t in signature.inputs] == [("image", "FP32", (-1, 4))]
    assert [(t.name, t.datatype, t.shape) for t in signature.outputs] == [("output", "FP32", (-1, 2))]
    version = opened(registry, committed, tmp_path / "into")
    module = load_variant(version.build()[0], version.weights)
    for count in (1, 5):
        rows = torch.randn(count, 4)
        torch.testing.assert_close(module(rows), original(rows))


def _rewritten(source: Path, target: Path, change: Callable[[str, bytes], tuple[str, bytes]], *, add: str | None = None) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            new.writestr(*change(info.filename, old.read(info)))
        if add:
            new.writestr(add, b"")
    return target


def _pickled(name: str, data: bytes) -> tuple[str, bytes]:
    if name.endswith("_weights_config.json"):
        config = json.loads(data)
        next(iter(config["config"].values()))["use_pickle"] = True
        data = json.dumps(config).encode()
    return name, data


def _opaque(name: str, data: bytes) -> tuple[str, bytes]:
    if name.endswith("_constants_config.json"):
        entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": False, "tensor_meta": None}
        data = json.dumps({"config": {"evil": entry}}).encode()
    return name, data


def _unlisted(name: str, data: bytes) -> tuple[str, bytes]:
    return (name, b'{"config": {"w": {"path_name": "weight_0"}}}') if name.endswith("_weights_config.json") else (name, data)


def _same(name: str, data: bytes) -> tuple[str, bytes]:
    return name, data


@pytest.mark.parametrize(
    ("change", "add", "words"),
    [
        (_pickled, None, "stored as a pickle, which is never read here"),
        (_opaque, None, "'evil' is stored as a pickle"),
        (_unlisted, None, "cannot be read"),
        (_same, "x/data/aotinductor/model/model.so", "has no place in an exported program"),
        (_same, "x/data/weights/model.pt", "pickled format of old torch releases"),
        (_same, "serialized_state_dict.pt", "has no place in an exported program"),
        (_same, "x/models/model.py", "is no graph in JSON"),
    ],
)
def test_an_archive_that_could_unpickle_is_refused_before_torch_sees_it(
    change: Callable[[str, bytes], tuple[str, bytes]],
    add: str | None,
    words: str,
    exported: tuple[Path, nn.Module],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.export, "load", lambda path: pytest.fail("torch must not see it"))
    with pytest.raises(NotPublishable, match=words):
        program.load(_rewritten(exported[0], tmp_path / "bad.pt2", change, add=add))


def test_a_program_with_a_fixed_batch_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(Shifted(), (torch.zeros(2, 4),)), tmp_path / "fixed.pt2")
    with pytest.raises(NotPublishable, match="no free first dimension; export with dynamic_shapes"):
        program.signature(program.load(tmp_path / "fixed.pt2"))


def test_what_does_not_fit_together_publishes_nothing(registry: Registry, recipe: Path, tmp_path: Path) -> None:
    good, wrong, text = (tmp_path / name for name in ("good.safetensors", "wrong.safetensors", "text.pt2"))
    save_file(nn.Linear(4, 2).state_dict(), good)
    save_file(nn.Linear(4, 3).state_dict(), wrong)
    text.write_text("not a zip")
    cases = {
        "the model has torch.float32": Source(weights=wrong, recipe=recipe, entrypoint="recipe:Tiny"),
        "there is no such file": Source(weights=tmp_path / "none", recipe=recipe, entrypoint="recipe:Tiny"),
        "has no recipe 'Big'": Source(weights=good, recipe=recipe, entrypoint="recipe:Big"),
        "give weights, a recipe's folder": Source(weights=good),
        "either a program, or": Source(program=text, weights=good),
        "not an exported program": Source(program=text),
    }
    for words, source in cases.items():
        with pytest.raises(Fault, match=words):
            import_model(registry, "tiny", source=source, channel="stable")
    assert registry.numbers("tiny") == []


def test_an_import_that_fails_half_way_leaves_nothing(
    registry: Registry, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(nn.Linear(4, 2).state_dict(), tmp_path / "w.safetensors")
    shutil.copy(tmp_path / "w.safetensors", recipe / "bad\nname")
    source = Source(weights=tmp_path / "w.safetensors", recipe=recipe, entrypoint="recipe:Tiny")
    with pytest.raises(NotPublishable, match="needs a plain name"):
        import_model(registry, "tiny", source=source, channel="stable")
    assert registry.numbers("tiny") == []
