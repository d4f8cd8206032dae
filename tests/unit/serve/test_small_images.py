"""Convolutions whose kernel is larger than the image become products: same answers, on images of any size."""

from typing import Any

import pytest
import torch
from torch import nn

from modelmill.serve.optimize.apply import optimize
from tests.unit.serve.nets import Net, assert_same, norm

WIDE = 64
SMALL: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "2x2": ({}, (2, 2)),
    "without bias": ({"bias": False}, (2, 2)),
    "one pixel": ({}, (1, 1)),
    "one row": ({}, (1, 3)),
    "stride": ({"stride": 2}, (2, 2)),
    "large kernel": ({"kernel_size": 5, "padding": 2}, (2, 3)),
    "dilation": ({"padding": 2, "dilation": 2}, (2, 2)),
    "kernel and padding of two sizes": ({"kernel_size": (5, 3), "padding": (2, 1)}, (2, 2)),
}


def convolution(**options: Any) -> nn.Conv2d:
    return nn.Conv2d(WIDE, WIDE, **{"kernel_size": 3, "padding": 1, **options})


@pytest.mark.parametrize("after", [(), (norm(WIDE), nn.ReLU())], ids=["alone", "before batch norm"])
@pytest.mark.parametrize("name", SMALL)
def test_they_become_products(name: str, after: tuple[nn.Module, ...]) -> None:
    options, size = SMALL[name]
    module = nn.Sequential(convolution(**options), *after).eval()
    optimized = optimize(module, example=(torch.zeros(3, WIDE, *size),))
    assert "1 convolutions of small images as products" in optimized.notes[0]
    for rows, *image in ((1, *size), (7, *size), (2, 5, 4), (2, *size), (1, 1, 7)):
        x = torch.randn(rows, WIDE, *image)
        with torch.inference_mode():
            assert_same(optimized.module(x), module(x))


STAYS: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "as many pixels as taps": ({}, (3, 3)),
    "groups": ({"groups": 2}, (2, 2)),
    "reflected": ({"padding_mode": "reflect"}, (2, 2)),
    "padding by name": ({"padding": "same"}, (2, 2)),
    "a matrix of 26 times the weight": ({"kernel_size": 7, "padding": 3}, (6, 6)),
}


@pytest.mark.parametrize("name", STAYS)
def test_other_convolutions_stay(name: str) -> None:
    options, size = STAYS[name]
    optimized = optimize(nn.Sequential(convolution(**options)).eval(), example=(torch.zeros(3, WIDE, *size),))
    (note,) = optimized.notes
    assert note.startswith("1 convolutions channels-last")
    assert "small images" not in note


def test_one_whose_weight_is_read_stays() -> None:
    module = Net(lambda net, x: net.one(x) / net.one.weight.norm(), one=convolution()).eval()
    done, rejected = optimize(module, example=(torch.zeros(2, WIDE, 2, 2),)).notes
    assert done == "1 convolutions channels-last"
    assert rejected.startswith(f"not {done}, 1 convolutions of small images as products: AttributeError")


def test_one_that_is_called_on_images_of_two_sizes_stays() -> None:
    module = Net(lambda net, x: net.one(x) + net.one(x[:, :, :1, :1]), one=convolution()).eval()
    (note,) = optimize(module, example=(torch.zeros(2, WIDE, 4, 4),)).notes
    assert "small images" not in note
