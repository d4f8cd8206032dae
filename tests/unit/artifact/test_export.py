"""`modelmill export` and folders of other formats in `modelmill import`: from a registry out, and back in."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from modelmill.artifact.import_ import Source, import_model
from modelmill.cli import __main__ as cli
from modelmill.compress.codecs.coded import CodedWeight
from modelmill.compress.grids.uniform import Uniform
from modelmill.compress.weights import Plain, write_weights
from tests.unit.artifact.helpers import registry_at

RECIPE = """
from torch import nn

from modelmill import Recipe, Signature, Tensor


class Text(Recipe):
    def model(self):
        return nn.Sequential(nn.Embedding(6, 8), nn.Linear(8, 2))

    def signature(self):
        return Signature(
            inputs=(Tensor(name="ids", datatype="INT64", shape=(-1, 4)),), outputs=(Tensor(name="logits", shape=(-1, 4, 2)),)
        )
"""
Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*arguments: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["modelmill", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        told = capsys.readouterr()
        if code:
            return str(ended.value.code) + told.err
        assert ended.value.code == 0, told.err
        return told.out + told.err

    monkeypatch.setenv("MODELMILL_REGISTRY", f"file://{tmp_path}/registry")
    monkeypatch.setenv("MODELMILL_NAMESPACE", "team")
    return command


@pytest.fixture
def published(tmp_path: Path) -> dict[str, torch.Tensor]:
    """The tensors of version 1 of the model `text`, whose linear layer has 4-bit codes."""
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    (recipe / "recipe.py").write_text(RECIPE)
    state = nn.Sequential(nn.Embedding(6, 8), nn.Linear(8, 2)).state_dict()
    codes = CodedWeight.of(Uniform(bits=4).encode(state["1.weight"], name="w"))
    dense = {name: Plain(data=tensor) for name, tensor in state.items()}
    write_weights(tmp_path / "w.safetensors", {**dense, "1.weight": codes})
    source = Source(weights=tmp_path / "w.safetensors", recipe=recipe, entrypoint="recipe:Text")
    import_model(registry_at(f"file://{tmp_path}/registry"), "text", source=source, channel=None)
    return state | {"1.weight": codes.decode()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_a_variant_becomes_a_dense_file(run: Run, published: dict[str, torch.Tensor], tmp_path: Path) -> None:
    told = run("export", "text@1", f"{tmp_path}/out.safetensors", "--to", "dense", "--variant", "dense")
    assert told == f"wrote {tmp_path}/out.safetensors (dense of text@1, variant dense)\n"
    assert same(load_file(tmp_path / "out.safetensors"), published)


def test_what_is_exported_to_compressed_tensors_is_imported_again(
    run: Run, published: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    run("export", "text@1", f"{tmp_path}/ct", "--to", "compressed-tensors", "--strict")
    assert "1.weight_packed" in load_file(tmp_path / "ct" / "model.safetensors")
    options = ["--weights", f"{tmp_path}/ct", "--recipe", f"{tmp_path}/recipe", "--entrypoint", "recipe:Text"]
    assert "published version 2" in run("import", "text", *options)
    run("export", "text@2", f"{tmp_path}/again.safetensors", "--to", "dense")
    assert same(load_file(tmp_path / "again.safetensors"), published)


def test_an_embedding_that_others_quantized_is_imported_as_floats(
    run: Run, published: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / "config.json").write_text(
        '{"quantization_config": {"quant_method": "compressed-tensors", "format": "int-quantized"}}'
    )
    codes = torch.randint(-128, 128, (6, 8), dtype=torch.int8)
    rest = {name: published[name] for name in ("1.weight", "1.bias")}
    save_file({"0.weight": codes, "0.weight_scale": torch.ones(6, 1), **rest}, folder / "model.safetensors")
    run("import", "text", "--weights", str(folder), "--recipe", f"{tmp_path}/recipe", "--entrypoint", "recipe:Text")
    run("export", "text@2", f"{tmp_path}/again.safetensors", "--to", "dense")
    assert torch.equal(load_file(tmp_path / "again.safetensors")["0.weight"], codes.float())


@pytest.mark.usefixtures("published")
def test_what_cannot_be_exported_is_said_in_one_line(run: Run, tmp_path: Path) -> None:
    out = f"{tmp_path}/out"
    cases = {
        ("text", out, "--to", "dense"): "must be a model's name, @, and a version's number",
        ("text@x", out, "--to", "dense"): "must be a model's name",
        ("text@7", out, "--to", "dense"): "has no version 7",
        ("text@1", out, "--to", "dense", "--variant", "int8"): "has no variant 'int8'; it has dense",
        ("text@1", out, "--to", "dense", "--quantized"): "only onnx is written quantized",
    }
    for arguments, words in cases.items():
        assert words in " ".join(run("export", *arguments, code=1).replace("│", "").split())
    assert not Path(out).exists()
