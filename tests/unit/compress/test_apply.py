"""Compress a module, write it, put it into a fresh one: same answers, smaller file, nothing trusted."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from modelmill.compress import container
from modelmill.compress.apply import load_variant
from modelmill.compress.errors import BadArtifact, CompressionError
from modelmill.compress.modules import CompressedConv2d, CompressedLinear
from modelmill.compress.pipeline import compress
from modelmill.compress.weights import Plain, Weight, read_weights, write_weights
from modelmill.contract.steps import Prune, Quantize, Step
from tests.unit.compress.models import Shared, conv_net, dense_net

INT8 = (Step(quantize=Quantize()),)


def pruned(threshold: float) -> Step:
    return Step(prune=Prune(method="Threshold", threshold=threshold))


def saved(module: nn.Module, steps: Sequence[Step], folder: Path) -> Path:
    path = folder / "v.safetensors"
    write_weights(path, compress(module, steps).weights)
    return path


def dense_of(weight: Weight) -> torch.Tensor:
    return weight.data if isinstance(weight, Plain) else weight.decode()


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).detach().norm() / wanted.detach().norm())


def test_a_dense_variant_gives_the_very_same_answers(tmp_path: Path) -> None:
    trained, x = conv_net(seed=1).eval(), torch.randn(4, 3, 12, 12)
    loaded = load_variant(conv_net(seed=2), saved(trained, (), tmp_path))
    assert torch.equal(loaded(x), trained(x))
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("rows", [1, 40])
def test_int8_answers_are_close_to_dense_ones(tmp_path: Path, rows: int) -> None:
    trained, x = dense_net(seed=1).eval(), torch.randn(rows, 64)
    loaded = load_variant(dense_net(seed=2), saved(trained, INT8, tmp_path))
    assert [type(layer) for layer in loaded.children()] == [
        CompressedLinear,
        nn.ReLU,
        CompressedLinear,
        nn.ReLU,
        CompressedLinear,
    ]
    assert relative(loaded(x), trained(x)) < 0.03


def test_int8_convolutions_compute_on_codes(tmp_path: Path) -> None:
    trained, x = conv_net(seed=1).eval(), torch.randn(4, 3, 12, 12)
    made = compress(trained, INT8)
    assert made.changed == ("0.weight", "3.weight", "7.weight")
    assert made.kept == {"4.weight": "grouped convolutions (groups=24) have no compressed form yet"}
    loaded = load_variant(conv_net(seed=2), saved(trained, INT8, tmp_path))
    assert isinstance(loaded.get_submodule("0"), CompressedConv2d)
    assert relative(loaded(x), trained(x)) < 0.03


def test_an_image_without_batch_dimension_goes_through_a_convolution(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3))
    loaded = load_variant(nn.Sequential(nn.Conv2d(3, 8, 3)), saved(net, INT8, tmp_path))
    assert loaded(torch.randn(3, 6, 6)).shape == (8, 4, 4)


def test_activations_of_any_rank_go_through_a_linear_layer(tmp_path: Path) -> None:
    net, x = nn.Sequential(nn.Linear(32, 8)), torch.randn(2, 3, 5, 32)
    loaded = load_variant(nn.Sequential(nn.Linear(32, 8)), saved(net, INT8, tmp_path))
    assert relative(loaded(x), net(x)) < 0.03


def test_a_transformer_is_served_past_its_fused_path(tmp_path: Path) -> None:
    def encoder() -> nn.Module:
        return nn.TransformerEncoderLayer(32, 4, dim_feedforward=64, batch_first=True, dropout=0.0)

    trained, x = encoder().eval(), torch.randn(2, 7, 32)
    made = compress(trained, INT8)
    assert made.changed == ("linear1.weight", "linear2.weight")
    loaded = load_variant(encoder(), saved(trained, INT8, tmp_path))
    with torch.inference_mode():
        assert relative(loaded(x), trained(x)) < 0.03


def test_int8_is_a_quarter_of_dense_and_a_bit(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(64, 256), nn.Linear(256, 256), nn.Linear(256, 10))
    dense = write_weights(tmp_path / "dense", compress(net, ()).weights)
    assert write_weights(tmp_path / "int8", compress(net, INT8).weights) < 0.30 * dense


def test_pruning_zeroes_exactly_the_small_weights_and_reports_them(tmp_path: Path) -> None:
    trained = dense_net()
    made = compress(trained, (pruned(0.05),))
    weights = {name: tensor for name, tensor in trained.state_dict().items() if name.endswith("weight")}
    zeros = sum(int((tensor.abs() <= 0.05).sum()) for tensor in weights.values())
    assert made.sparsity == pytest.approx(zeros / sum(tensor.numel() for tensor in weights.values()))
    for name, tensor in weights.items():
        assert torch.equal(dense_of(made.weights[name]), torch.where(tensor.abs() <= 0.05, 0.0, tensor))
    assert torch.equal(dense_of(made.weights["0.bias"]), trained.state_dict()["0.bias"])


@settings(max_examples=20)
@given(threshold=st.floats(0, 0.2), seed=st.integers(0, 5))
def test_pruning_then_int8_keeps_every_zero(threshold: float, seed: int) -> None:
    net = dense_net(seed=seed)
    before, both = compress(net, (pruned(threshold),)), compress(net, (pruned(threshold), *INT8))
    assert both.sparsity >= before.sparsity
    for name in both.changed:
        assert bool((dense_of(both.weights[name])[dense_of(before.weights[name]) == 0] == 0).all())


def test_compressing_does_not_change_the_module() -> None:
    net = dense_net()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    compress(net, (pruned(0.1), *INT8))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_a_weight_that_layers_share_stays_dense_and_this_is_said(tmp_path: Path) -> None:
    trained, x = Shared(), torch.randn(3, 16)
    made = compress(trained, INT8)
    assert made.changed == ("own.weight",)
    assert made.kept == {"one.weight": "several layers share it", "two.weight": "several layers share it"}
    assert relative(load_variant(Shared(), saved(trained, INT8, tmp_path))(x), trained(x)) < 0.03


def test_a_model_without_weights_to_compress_is_refused_with_the_reason() -> None:
    with pytest.raises(CompressionError, match=r"no weight that can be compressed: 0.weight: LSTM|0.weight_ih_l0: LSTM has no"):
        compress(nn.Sequential(nn.LSTM(4, 4)), INT8)


def test_a_plain_safetensors_file_is_a_dense_variant(tmp_path: Path) -> None:
    trained = dense_net(seed=1)
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    x = torch.randn(2, 64)
    assert torch.equal(load_variant(dense_net(seed=2), tmp_path / "w.safetensors")(x), trained(x))


def test_int8_files_have_the_layout_of_compressed_tensors(tmp_path: Path) -> None:
    path = saved(nn.Sequential(nn.Linear(64, 12)), INT8, tmp_path)
    tensors, metadata = container.read(path)
    assert {name: (tensor.dtype, list(tensor.shape)) for name, tensor in tensors.items()} == {
        "0.weight": (torch.int8, [12, 64]),
        "0.weight_scale": (torch.float32, [12, 1]),
        "0.bias": (torch.float32, [12]),
    }
    assert json.loads(metadata["modelmill"]) == {
        "format": 2,
        "tensors": {
            "0.bias": {"codec": "dense"},
            "0.weight": {"codec": "codes", "grid": "Uniform", "bits": 8, "shape": [12, 64]},
        },
    }


def tampered(path: Path, change: Any) -> Path:
    """The file with its tensors and descriptors changed by `change(tensors, descriptors)`."""
    mapped, metadata = container.read(path)
    tensors = {name: tensor.clone() for name, tensor in mapped.items()}
    root = json.loads(metadata["modelmill"])
    change(tensors, root)
    container.write(path, tensors, metadata={"modelmill": json.dumps(root)})
    return path


W, S = "0.weight", "0.weight_scale"
CHANGES: list[tuple[str, Any, str]] = [
    ("negative scale", lambda t, d: t[S][3].neg_(), r"tensor '0.weight_scale': scale -.* of channel 3"),
    ("scale that is no number", lambda t, d: t[S].fill_(float("nan")), r"tensor '0.weight_scale': scale nan"),
    ("too few scales", lambda t, d: t.update({S: t[S][1:]}), r"tensor '0.weight_scale': expected"),
    ("codes with other channels", lambda t, d: t.update({W: t[W].view(-1, 32)}), r"tensor '0.weight': expected"),
    (
        "codes of another shape",
        lambda t, d: t.update({W: t[W][:, 1:]}),
        r"tensor '0.weight': expected torch.int8 \[128, 64\]",
    ),
    ("codes as floats", lambda t, d: t.update({W: t[W].float()}), r"tensor '0.weight': expected torch.int8"),
    (
        "bias of another shape",
        lambda t, d: t.update({"0.bias": t["0.bias"][1:]}),
        r"'0.bias': the model has .* \[128\]",
    ),
    ("bias of another dtype", lambda t, d: t.update({"0.bias": t["0.bias"].double()}), r"'0.bias': the model has torch.float32"),
    ("tensor gone", lambda t, d: t.pop("2.bias"), r"tensor '2.bias': has a descriptor, but is not stored"),
    ("descriptor gone", lambda t, d: d["tensors"].pop("2.bias"), r"tensor '2.bias': stored, but no descriptor"),
    ("both gone", lambda t, d: (t.pop("2.bias"), d["tensors"].pop("2.bias")), r"missing '2.bias'"),
    ("one more", lambda t, d: (t.update(x=torch.ones(1)), d["tensors"].update(x={"codec": "dense"})), r"unknown 'x'"),
    ("unknown codec", lambda t, d: d["tensors"][W].update(codec="pickle"), r"tensor '0.weight': codec 'pickle'"),
    ("descriptor of no shape", lambda t, d: d["tensors"].update({"0.bias": None}), r"tensor '0.bias': codec None"),
    ("other bits", lambda t, d: d["tensors"][W].update(bits=4), r"tensor '0.weight': expected torch.uint8 \[8, 8, 64\]"),
    ("bits that are none", lambda t, d: d["tensors"][W].update(bits=3), r"tensor '0.weight': grid .* bits 3"),
    ("another shape", lambda t, d: d["tensors"][W].update(shape=[64, 128]), r"tensor '0.weight': expected"),
    ("a shape of no numbers", lambda t, d: d["tensors"][W].update(shape=[True, 2]), r"tensor '0.weight': shape"),
    ("levels that are not there", lambda t, d: d["tensors"][W].update(levels=True), r"'0.weight_levels': has a descriptor"),
    (
        "codes called dense",
        lambda t, d: (d["tensors"][W].update(codec="dense"), t.pop(S)),
        r"the model has torch.float32",
    ),
    ("newer format", lambda t, d: d.update(format=3), r"format 3 is not known, only 2"),
    ("structure of no edits", lambda t, d: d.update(structure=[1]), r"list of objects 'structure'"),
    ("no descriptors", lambda t, d: d.update(tensors=[]), r"must hold an object 'tensors'"),
]


@pytest.mark.parametrize(("change", "told"), [pytest.param(c, t, id=name) for name, c, t in CHANGES])
def test_a_tampered_file_is_refused_naming_the_tensor(tmp_path: Path, change: Any, told: str) -> None:
    path = tampered(saved(dense_net(), INT8, tmp_path), change)
    with pytest.raises(BadArtifact, match=told):
        load_variant(dense_net(), path)


def test_codes_for_something_that_is_no_layer_are_refused(tmp_path: Path) -> None:
    weights = compress(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), INT8).weights
    write_weights(tmp_path / "w", {"weight": weights["0.weight"]})
    with pytest.raises(BadArtifact, match=r"tensor 'weight': .* Embedding has no compressed form yet"):
        load_variant(nn.Embedding(8, 4), tmp_path / "w")


def test_a_refused_file_leaves_the_module_untouched(tmp_path: Path) -> None:
    path = tampered(saved(dense_net(), INT8, tmp_path), lambda t, d: t["4.weight_scale"].zero_())
    module = dense_net(seed=3)
    with pytest.raises(BadArtifact):
        load_variant(module, path)
    assert all(
        torch.equal(a, b) for a, b in zip(module.state_dict().values(), dense_net(seed=3).state_dict().values(), strict=True)
    )


def test_reading_back_gives_what_was_written(tmp_path: Path) -> None:
    made = compress(dense_net(), INT8).weights
    write_weights(tmp_path / "w", made)
    read = read_weights(tmp_path / "w").tensors
    assert read.keys() == made.keys()
    assert all(torch.equal(dense_of(read[name]), dense_of(made[name])) for name in made)
