"""Layers that compute on int8 codes. They stand in for `nn.Linear` and `nn.Conv2d` when a variant is loaded.

`replacement(layer)` tells whether a layer can be replaced at all. Only exact types are: a subclass may use its weight
in ways that nobody here knows.
"""

import torch
from torch import nn

from modelmill.compress import kernels


class _Quantised(nn.Module):
    """Codes [N, ...], scales [N] and bias; for inference only."""

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", codes)
        self.register_buffer("scale", scale.reshape(-1))
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def extra_repr(self) -> str:
        return f"{list(self.weight.shape)}, int8, bias={self.bias is not None}"


class QuantLinear(_Quantised):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dim() == 2:
            return kernels.int8_linear(x, self.weight, self.scale, self.bias)
        outputs, inputs = self.weight.shape
        return kernels.int8_linear(x.reshape(-1, inputs), self.weight, self.scale, self.bias).view(*x.shape[:-1], outputs)


class QuantConv2d(_Quantised):
    def __init__(self, codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, *, like: nn.Conv2d) -> None:
        super().__init__(codes, scale, bias)
        self.stride, self.padding, self.dilation = like.stride, like.padding, like.dilation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = (self.weight, self.scale, self.bias)
        return kernels.tiled_conv2d(x, *weights, stride=self.stride, padding=self.padding, dilation=self.dilation)


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


def replace(layer: nn.Module, *, codes: torch.Tensor, scale: torch.Tensor) -> nn.Module:
    """The layer on codes, with the same bias. The layer must be one without `refusal`."""
    if isinstance(layer, nn.Conv2d):
        return QuantConv2d(codes, scale, layer.bias, like=layer)
    assert isinstance(layer, nn.Linear)
    return QuantLinear(codes, scale, layer.bias)
