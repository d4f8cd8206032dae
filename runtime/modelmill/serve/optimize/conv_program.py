"""Convolutions that follow each other as one module, which runs them as a program (`modelmill.kernels.program`)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from modelmill.compress.codecs.coded import CodedWeight
from modelmill.compress.errors import CompressionError
from modelmill.compress.graph.trace import customised
from modelmill.compress.modules import CompressedConv2d
from modelmill.compress.weight import is_exact
from modelmill.kernels.conv import Geometry
from modelmill.kernels.operations import Dense, Operation
from modelmill.kernels.program import Program, available
from modelmill.kernels.weight import Coded

MOST_DENSE_BYTES = 160 << 10
"""Of a float32 weight. A program reads it again for every few samples; from 64 channels of 3 x 3 on, oneDNN is as fast."""


class Link(NamedTuple):
    """How a layer is connected. Values are numbered: the inputs, then the result of each layer."""

    x: int
    residual: int | None
    relu: bool


class DenseConv2d(nn.Module):
    """For inference: its weight is in the order that programs read."""

    def __init__(self, layer: nn.Conv2d, geometry: Geometry) -> None:
        super().__init__()
        weight = Dense.of(layer.weight, layer.bias)
        self.geometry, self.outputs = geometry, weight.outputs
        self.panel = nn.Parameter(weight.panel, requires_grad=False)
        self.bias = None if weight.bias is None else nn.Parameter(weight.bias, requires_grad=False)

    def operand(self) -> Dense:
        return Dense(panel=self.panel, bias=self.bias, outputs=self.outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernel, stride, padding, dilation = self.geometry
        return functional.conv2d(x, self.operand().plain(kernel), self.bias, stride, padding, dilation)


class ConvProgram(nn.Module):
    """For inference. Takes and returns float32 [B, C, H, W] on the CPU; for anything else its layers run one by one.

    So they do within `exact`, where one of them rounds its input."""

    def __init__(self, layers: Sequence[nn.Module], links: Sequence[Link], *, inputs: int, outputs: Sequence[int]) -> None:
        """layers: what `part_of` made."""
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.links, self.inputs, self.outputs = tuple(links), inputs, tuple(outputs)
        self._program: Program | None = None

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        results = self._together(inputs) or self._apart(inputs)
        return results[0] if len(results) == 1 else results

    def forget(self) -> None:
        """After tensors were replaced: a program points to those that it was made from."""
        self._program = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_program": None}

    def _together(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        """None for what a program does not take, such as a residual that is smaller than what it is added to."""
        rounds = any(isinstance(layer, CompressedConv2d) for layer in self.layers)
        if (rounds and is_exact()) or not all(x.dtype == torch.float32 and x.is_cpu and x.dim() == 4 for x in inputs):
            return None
        try:
            return self._made().run(*inputs)
        except CompressionError:
            return None

    def _apart(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        values = [*inputs]
        for layer, link in zip(self.layers, self.links, strict=True):
            value = layer(values[link.x])
            value = value if link.residual is None else value + values[link.residual]
            values.append(value.relu() if link.relu else value)
        return tuple(values[index] for index in self.outputs)

    def _made(self) -> Program:
        if self._program is None:
            pairs = zip(self.layers, self.links, strict=True)
            operations = tuple(_operation(layer, link) for layer, link in pairs)
            self._program = Program(operations=operations, inputs=self.inputs, outputs=self.outputs)
        return self._program


def fits(layer: nn.Module) -> bool:
    """Whether programs take the convolution; a coded one only where its input is never below 0."""
    if type(layer) is nn.Conv2d:
        return available(dense=True) and layer.weight.nbytes <= MOST_DENSE_BYTES and _geometry(layer) is not None
    return isinstance(layer, CompressedConv2d) and available(dense=False) and _coded(layer) is not None


def part_of(layer: nn.Module) -> nn.Module:
    """The convolution, which `fits`, as a program's layer."""
    if type(layer) is not nn.Conv2d:
        return layer
    geometry = _geometry(layer)
    assert geometry is not None
    return DenseConv2d(layer, geometry)


def _operation(layer: nn.Module, link: Link) -> Operation:
    if isinstance(layer, DenseConv2d):
        return Operation(weight=layer.operand(), geometry=layer.geometry, **link._asdict())
    assert isinstance(layer, CompressedConv2d)
    operation = _coded(layer)
    assert operation is not None
    weight, geometry = operation
    return Operation(weight=weight, geometry=geometry, activation_scale=layer.weight.activation_scale, **link._asdict())


def _coded(layer: CompressedConv2d) -> tuple[Coded, Geometry] | None:
    geometry, weight = layer.geometry, layer.weight
    if not isinstance(weight, CodedWeight) or isinstance(geometry.padding, str) or customised(layer):
        return None
    operand = weight.operand(layer.bias)
    if operand is None:
        return None
    return operand, Geometry(weight.shape[2:], geometry.stride, geometry.padding, geometry.dilation)


def _geometry(layer: nn.Conv2d) -> Geometry | None:
    """None for what programs do not compute."""
    plain = layer.groups == 1 and layer.padding_mode == "zeros" and layer.weight.dtype == torch.float32 and not customised(layer)
    if not plain or isinstance(layer.padding, str):
        return None
    return Geometry(layer.kernel_size, layer.stride, layer.padding, layer.dilation)
