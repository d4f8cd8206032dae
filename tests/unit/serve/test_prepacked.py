"""Layers whose weights are prepacked for oneDNN answer as torch's own do, and take no more memory."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from modelmill.serve.optimize.apply import optimize
from modelmill.serve.optimize.prepacked import FEWEST_WEIGHTS, PrepackedConv2d, PrepackedLinear, available, prepack
from tests.unit.serve.nets import assert_same

WIDE = 384
assert WIDE * WIDE >= FEWEST_WEIGHTS


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def prepacked_linear(*, bias: bool = True) -> tuple[nn.Module, nn.Module]:
    plain = nn.Sequential(nn.Linear(WIDE, WIDE, bias=bias)).eval()
    ours = copy.deepcopy(plain)
    assert prepack(ours, {}) == 1
    assert isinstance(ours[0], PrepackedLinear)
    return plain, ours


def test_this_torch_has_what_packing_needs() -> None:
    assert available()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(WIDE,), (1, WIDE), (7, WIDE), (3, 5, WIDE), (2, 3, 4, WIDE), (0, WIDE)])
def test_a_linear_layer_takes_inputs_of_any_shape(shape: tuple[int, ...], bias: bool) -> None:
    plain, ours = prepacked_linear(bias=bias)
    x = torch.randn(shape)
    with torch.inference_mode():
        assert_same(ours(x), plain(x))


def test_a_linear_layer_takes_a_view_that_is_not_contiguous() -> None:
    plain, ours = prepacked_linear()
    x = torch.randn(WIDE, 9).t()
    with torch.inference_mode():
        assert_same(ours(x), plain(x))


@pytest.mark.parametrize("groups", [1, 4, 16])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(9, 9), (5, 16), (3, 3)])
def test_a_convolution_takes_images_of_other_sizes_than_it_was_packed_for(
    size: tuple[int, int], stride: int, groups: int
) -> None:
    plain = nn.Sequential(nn.Conv2d(16, 32, 3, stride=stride, padding=1, groups=groups)).eval()
    ours = copy.deepcopy(plain)
    assert prepack(ours, {"0": (9, 9)}) == 1
    assert isinstance(ours[0], PrepackedConv2d)
    for rows in (1, 6):
        for memory in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(rows, 16, *size).to(memory_format=memory)
            with torch.inference_mode():
                assert_same(ours(x), plain(x))


@pytest.mark.parametrize("residual", [True, False])
def test_a_convolution_adds_and_cuts_off_below_zero(residual: bool) -> None:
    plain = nn.Conv2d(16, 32, 3, padding=1)
    ours = PrepackedConv2d(plain, (9, 9))
    x, other = torch.randn(3, 16, 9, 9), torch.randn(3, 32, 9, 9)
    with torch.inference_mode():
        expected = (plain(x) + other if residual else plain(x)).relu()
        assert_same(ours.rectified(x, other if residual else None), expected)


def test_copies_share_the_packed_weight() -> None:
    plain, ours = prepacked_linear()
    other = copy.deepcopy(ours)
    assert isinstance(ours, nn.Sequential)
    assert isinstance(other, nn.Sequential)
    assert other[0]._packed is ours[0]._packed
    with torch.inference_mode():
        assert_same(other(torch.ones(2, WIDE)), plain(torch.ones(2, WIDE)))


def test_a_forward_that_reads_the_weight_finds_it() -> None:
    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(WIDE, WIDE)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.one(x) + self.one.weight.sum()
            return y

    module = Reading().eval()
    optimized = optimize(module, example=(torch.randn(4, WIDE),))
    with torch.inference_mode():
        assert_same(optimized.module(torch.ones(3, WIDE)), module(torch.ones(3, WIDE)))


def test_a_weight_that_two_layers_share_stays() -> None:
    module = nn.Sequential(nn.Linear(WIDE, WIDE), nn.Linear(WIDE, WIDE))
    module[1].weight = module[0].weight
    assert prepack(module, {}) == 0


def test_small_linear_layers_stay() -> None:
    assert prepack(nn.Sequential(nn.Linear(64, 128), nn.Linear(128, 10)), {}) == 0


def test_weights_that_torchs_own_modules_read_stay() -> None:
    module = nn.Sequential(nn.TransformerEncoderLayer(WIDE, 4, batch_first=True))
    assert prepack(module, {}) == 0


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(8, 8, 3, padding="same"), nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"), nn.Linear(WIDE, WIDE).bfloat16()],
)
def test_what_cannot_be_packed_stays(layer: Any) -> None:
    assert prepack(nn.Sequential(layer), {"0": (9, 9)}) == 0


def test_a_convolution_whose_images_are_not_known_stays() -> None:
    assert prepack(nn.Sequential(nn.Conv2d(8, 8, 3)), {"0": ()}) == 0
    assert prepack(nn.Sequential(nn.Conv2d(8, 8, 3)), {}) == 0


def test_a_served_model_says_how_many_layers_are_packed() -> None:
    module = nn.Sequential(nn.Linear(WIDE, WIDE), nn.ReLU(), nn.Linear(WIDE, WIDE)).eval()
    optimized = optimize(module, example=(torch.randn(4, WIDE),))
    assert optimized.notes == ("2 layers with prepacked weights",)
