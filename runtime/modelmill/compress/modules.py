"""Layers with a compressed weight. They stand in for `nn.Linear` and `nn.Conv2d` when a variant is loaded.

`refusal(layer)` tells whether a layer can be replaced at all. Only exact types are: a subclass may use its weight
in ways that nobody here knows.
"""

from functools import partial

import torch
from torch import nn

from modelmill.compress.weight import CompressedWeight, Geometry, add_and_cut, is_exact


class Compressed(nn.Module):
    """For inference only."""

    def __init__(self, weight: CompressedWeight, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.weight = weight
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)


class CompressedLinear(Compressed):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        linear = partial(CompressedWeight.linear, self.weight) if is_exact() else self.weight.linear
        if x.dim() == 2:
            return linear(x, self.bias)
        outputs, inputs = self.weight.shape
        return linear(x.reshape(-1, inputs), self.bias).view(*x.shape[:-1], outputs)


class CompressedConv2d(Compressed):
    def __init__(self, weight: CompressedWeight, bias: torch.Tensor | None, *, geometry: Geometry) -> None:
        super().__init__(weight, bias)
        self.geometry = geometry

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if is_exact():
            return CompressedWeight.conv2d(self.weight, x, self.bias, self.geometry)
        return self.weight.conv2d(x, self.bias, self.geometry)

    def rectified(self, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        """max(0, the convolution + residual)"""
        if is_exact():
            return add_and_cut(self.forward(x), residual)
        return self.weight.rectified_conv2d(x, self.bias, self.geometry, residual)


def refusal(layer: nn.Module) -> str | None:
    """Why the layer's weight must stay dense; None when it can be replaced."""
    if type(layer) is nn.Linear:
        return None
    if type(layer) is not nn.Conv2d:
        return f"{type(layer).__name__} has no compressed form yet"
    if layer.groups != 1:
        return f"grouped convolutions (groups={layer.groups}) have no compressed form yet"
    if layer.padding_mode != "zeros":
        return f"padding_mode {layer.padding_mode!r} has no compressed form yet"
    return None


def replace(layer: nn.Module, weight: CompressedWeight) -> nn.Module:
    """The layer with this weight, and the same bias. The layer must be one without `refusal`."""
    if isinstance(layer, nn.Conv2d):
        padding = layer.padding if isinstance(layer.padding, str) else _pair(layer.padding)
        geometry = Geometry(stride=_pair(layer.stride), padding=padding, dilation=_pair(layer.dilation))
        return CompressedConv2d(weight, layer.bias, geometry=geometry)
    assert isinstance(layer, nn.Linear)
    return CompressedLinear(weight, layer.bias)


def _pair(sizes: tuple[int, ...]) -> tuple[int, int]:
    """Height and width; torch's types do not say that there are two."""
    height, width = sizes
    return height, width
