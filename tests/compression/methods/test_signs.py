"""Convolutions whose weights and activations are signs: against plain torch, through a file, in training. Not: linear layers."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from modelmill.compress.apply import load_variant
from modelmill.compress.codecs.coded import CodedWeight
from modelmill.compress.codecs.signs import SignCodes
from modelmill.compress.codes import Codes
from modelmill.compress.errors import BadArtifact
from modelmill.compress.grids.binary import Binary
from modelmill.compress.grids.uniform import Uniform
from modelmill.compress.grids.xnor import Xnor
from modelmill.compress.pipeline import compress
from modelmill.compress.qat import FakeSigns
from modelmill.compress.weight import Geometry
from modelmill.compress.weights import read_weights, write_weights
from modelmill.contract.steps import Quantize, Step


def conv_of_signs(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, **geometry: int) -> torch.Tensor:
    """As the paper writes it, with one mean for each sample."""
    size = weight.abs().mean(dim=(1, 2, 3), keepdim=True)
    signs = torch.where(x < 0, -1.0, 1.0) * x.abs().mean(dim=(1, 2, 3), keepdim=True)
    return functional.conv2d(signs, torch.where(weight < 0, -size, size), bias, **geometry)


@given(
    channels=st.integers(1, 20),
    outputs=st.integers(1, 20),
    kernel=st.sampled_from((1, 3)),
    stride=st.integers(1, 2),
    padding=st.integers(0, 1),
    biased=st.booleans(),
    seed=st.integers(0, 1 << 16),
)
def test_a_convolution_of_signs_is_that_of_plain_torch(
    channels: int, outputs: int, kernel: int, stride: int, padding: int, biased: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, channels, kernel, kernel, generator=generator)
    x = torch.randn(2, channels, 6, 7, generator=generator)
    bias = torch.randn(outputs, generator=generator) if biased else None
    made = SignCodes.of(Xnor().encode(weight, name="w"))
    made.prepare()
    geometry = Geometry(stride=(stride, stride), padding=(padding, padding), dilation=(1, 1))
    wanted = conv_of_signs(x, weight, bias, stride=stride, padding=padding)
    torch.testing.assert_close(made.conv2d(x, bias, geometry), wanted, rtol=1e-4, atol=1e-4)


def test_it_comes_back_from_a_file_and_computes_the_same(tmp_path: Path) -> None:
    first = nn.Conv2d(8, 16, 3, padding=1, bias=False)
    made = compress(nn.Sequential(first, nn.ReLU()), (Step(quantize=Quantize(method="XNOR")),))
    write_weights(tmp_path / "w", made.weights)
    loaded = load_variant(nn.Sequential(nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.ReLU()), tmp_path / "w")
    x = torch.randn(4, 8, 5, 5)
    assert isinstance(read_weights(tmp_path / "w").tensors["0.weight"], SignCodes)
    wanted = conv_of_signs(x, first.weight.detach(), None, padding=1).relu()
    torch.testing.assert_close(loaded(x), wanted, rtol=1e-4, atol=1e-4)


def test_training_sees_what_serving_will_compute() -> None:
    layer = nn.Conv2d(6, 6, 3, bias=False)
    grid = Xnor()
    x = torch.randn(3, 6, 8, 8)
    weight = layer.weight.detach()
    made = SignCodes.of(grid.encode(weight, name="w"))
    layer.weight = nn.Parameter(made.decode())
    layer.register_forward_pre_hook(FakeSigns())
    geometry = Geometry(stride=(1, 1), padding=(0, 0), dilation=(1, 1))
    torch.testing.assert_close(layer(x).detach(), made.conv2d(x, None, geometry), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "codes",
    [Binary().encode(torch.randn(16, 8), name="w"), Uniform(bits=4).encode(torch.randn(16, 8, 3, 3), name="w")],
    ids=("a linear layer", "4 bits"),
)
def test_a_file_that_says_sign_codes_of_anything_else_is_refused(codes: Codes, tmp_path: Path) -> None:
    weight = CodedWeight.of(codes)
    weight.codec = SignCodes.codec  # type: ignore[misc]  # a lie, which no codec tells by itself
    write_weights(tmp_path / "w", {"w": weight})
    with pytest.raises(BadArtifact, match="sign-codes are convolutions of 1 bit"):
        read_weights(tmp_path / "w")
