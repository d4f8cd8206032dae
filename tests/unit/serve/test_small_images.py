"""Convolutions whose kernel is larger than the image become products: same answers, on images of any size."""

from typing import Any

import pytest
import torch
from torch import nn

from modelmill.serve.optimize.apply import optimize
from tests.unit.serve.nets import Net, assert_same, norm

WIDE = 48
SMALL: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "2x2": ({}, (2, 2)),
    "2x2, without bias": ({"bias": False}, (2, 2)),
    "one pixel": ({}, (1, 1)),
    "one row": ({}, (1, 3)),
    "stride": ({"stride": 2}, (2, 2)),
    "large kernel": ({"kernel_size": 5, "padding": 2}, (2, 3)),
    "dilation": ({"padding": 2, "dilation": 2}, (2, 2)),
    "kernel and padding of two sizes": ({"kernel_size": (5, 3), "padding": (2, 1)}, (2, 2)),
}


@pytest.mark.parametrize("name", SMALL)
def test_convolutions_of_small_images_become_products(name: str) -> None:
    options, size = SMALL[name]
    module = nn.Sequential(nn.Conv2d(WIDE, WIDE, **{"kernel_size": 3, "padding": 1, **options}), norm(WIDE), nn.ReLU()).eval()
    optimized = optimize(module, example=(torch.zeros(3, WIDE, *size),))
    assert "1 convolutions of small images as products" in done(optimized)
    for shape in ((1, *size), (7, *size), (2, 5, 4), (2, *size), (1, 1, 7)):
        x = torch.randn(shape[0], WIDE, *shape[1:])
        with torch.inference_mode():
            assert_same(optimized.module(x), module(x))


def test_a_convolution_whose_weight_is_read_stays_one() -> None:
    module = Net(lambda net, x: net.one(x) / net.one.weight.norm(), one=nn.Conv2d(WIDE, WIDE, 3, padding=1)).eval()
    optimized = optimize(module, example=(torch.zeros(2, WIDE, 2, 2),))
    assert text.startswith("1 convolutions channels-last; not 1 convolutions channels-last, 1 convolutions of small")
    assert "has no attribute 'weight'" in text


