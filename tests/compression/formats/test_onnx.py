"""ONNX files in the real onnxruntime, beside the module in torch: dense and quantized, with other batches than were traced."""

import copy
from itertools import product
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import nn

from modelmill.compress.codecs.coded import CodedWeight
from modelmill.compress.formats import onnx
from modelmill.compress.formats.module import dense_module
from modelmill.compress.grids.uniform import Uniform
from modelmill.compress.select import select
from modelmill.compress.weights import Plain, Weight, Weights
from modelmill.signature import Signature, Tensor

TOLERANCE = 1e-4
FAST_TOLERANCE = 2e-2
"""Of quantized files: onnxruntime joins DequantizeLinear and MatMul to one operator, which rounds activations to 8 bits."""


def sessions(path: Path, *, quantized: bool) -> list[tuple[onnxruntime.InferenceSession, float]]:
    """The file as onnxruntime runs it, and as it is written, each with its tolerance."""
    if not quantized:
        return [(onnxruntime.InferenceSession(path), TOLERANCE)]
    plain = onnxruntime.SessionOptions()
    plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return [(onnxruntime.InferenceSession(path, plain), TOLERANCE), (onnxruntime.InferenceSession(path), FAST_TOLERANCE)]


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 16, 3, stride=2)
        self.head = nn.Linear(16, 10)
        self.norm.running_mean = torch.randn(8)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.first(image)))
        logits: torch.Tensor = self.head(torch.relu(self.second(x)).mean((2, 3)))
        return logits


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 32)
        self.query, self.key, self.value, self.out = (nn.Linear(32, 32) for _ in range(4))
        self.norm = nn.LayerNorm(32)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.words(ids)
        query, key, value = (part(x).unflatten(-1, (4, 8)).transpose(1, 2) for part in (self.query, self.key, self.value))
        seen = mask[:, None, None, :].bool()
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        x = self.norm(x + self.out(mixed.transpose(1, 2).flatten(2)))
        x = x + self.down(nn.functional.gelu(self.up(x)))
        weight = mask[..., None].float()
        return {"count": mask.sum(1), "embedding": (x * weight).sum(1) / weight.sum(1)}


IMAGE = Signature(inputs=(Tensor(name="image", shape=(-1, 3, 12, 12)),), outputs=(Tensor(name="logits", shape=(-1, 10)),))
TEXT = Signature(
    inputs=(Tensor(name="ids", datatype="INT64", shape=(-1, -1)), Tensor(name="mask", datatype="INT64", shape=(-1, -1))),
    outputs=(Tensor(name="embedding", shape=(-1, 32)), Tensor(name="count", datatype="INT64", shape=(-1,))),
)


def weights_of(module: nn.Module, grid: Uniform) -> Weights:
    layers = select(module).layers
    found: dict[str, Weight] = {
        name: CodedWeight.of(grid.encode(tensor, name=name)) if name in layers else Plain(data=tensor)
        for name, tensor in module.state_dict().items()
    }
    return Weights(tensors=found)


GRIDS = {
    "8 bits": Uniform(),
    "4 bits with zeros": Uniform(bits=4, symmetric=False),
    "3 bits in groups": Uniform(bits=3, granularity="Group", group_size=8),
}


@pytest.mark.parametrize(("grid", "quantized"), [("8 bits", False), ("8 bits", True), ("4 bits with zeros", True)])
def test_convolutions_answer_in_onnxruntime_as_in_torch(grid: str, quantized: bool, tmp_path: Path) -> None:
    module = Convolutions().eval()
    weights = weights_of(module, GRIDS[grid])
    expected = dense_module(copy.deepcopy(module), weights)
    assert onnx.export(module, weights, IMAGE, tmp_path / "m.onnx", quantized=quantized) == []
    for (session, tolerance), rows in product(sessions(tmp_path / "m.onnx", quantized=quantized), (1, 5)):
        image = torch.randn(rows, 3, 12, 12)
        (logits,) = session.run(["logits"], {"image": image.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), expected(image), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("grid", "quantized"), [("8 bits", False), ("8 bits", True), ("3 bits in groups", True)])
def test_an_encoder_answers_in_onnxruntime_as_in_torch(grid: str, quantized: bool, tmp_path: Path) -> None:
    module = Encoder().eval()
    weights = weights_of(module, GRIDS[grid])
    expected = dense_module(copy.deepcopy(module), weights)
    assert onnx.export(module, weights, TEXT, tmp_path / "m.onnx", quantized=quantized) == []
    for (session, tolerance), (rows, length) in product(sessions(tmp_path / "m.onnx", quantized=quantized), ((1, 4), (5, 11))):
        ids, mask = torch.randint(0, 50, (rows, length)), torch.ones(rows, length, dtype=torch.int64)
        mask[-1, 3:] = 0
        embedding, count = session.run(["embedding", "count"], {"ids": ids.numpy(), "mask": mask.numpy()})
        wanted = expected(ids, mask)
        torch.testing.assert_close(torch.from_numpy(embedding), wanted["embedding"], atol=tolerance, rtol=tolerance)
        assert torch.equal(torch.from_numpy(count), wanted["count"])


def test_quantized_files_are_smaller_and_say_what_stayed_floats(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(16, 64, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 256), nn.Linear(256, 256))
    signature = Signature(inputs=(Tensor(name="x", shape=(-1, 16, 8, 8)),), outputs=(Tensor(name="y", shape=(-1, 256)),))
    weights = weights_of(module, Uniform(bits=4, granularity="Group", group_size=16))
    onnx.export(copy.deepcopy(module), weights, signature, tmp_path / "dense.onnx")
    notes = onnx.export(module, weights, signature, tmp_path / "small.onnx", quantized=True)
    assert notes == ["0.weight: written as floats, groups within a convolution have no form there"]
    sizes = [sum(f.stat().st_size for f in tmp_path.glob(f"{name}.onnx*")) for name in ("small", "dense")]
    assert sizes[0] < sizes[1] * 0.4


def test_without_the_extra_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"need onnx and onnxscript: pip install 'modelmill\[export\]'"):
        onnx.export(nn.Linear(1, 1), Weights(tensors={}), IMAGE, tmp_path / "m.onnx")
