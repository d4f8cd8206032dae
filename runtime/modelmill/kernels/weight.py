"""A coded weight as the operators take it, with everything checked that the native module trusts."""

import math
from typing import NamedTuple

import torch

from modelmill.compress.errors import CompressionError
from modelmill.kernels import native, reference, tiles

_is_compiling = torch.compiler.is_compiling  # found once: a layer asks at each call
MOST_INPUTS = 1 << 16
"""Sums of more products than this may not fit 32 bits."""


class Coded(NamedTuple):
    """The weight [outputs, inputs]; see `modelmill.kernels.linear` for the fields."""

    codes: torch.Tensor
    scale: torch.Tensor
    levels: torch.Tensor | None
    zero: torch.Tensor | None
    bias: torch.Tensor | None
    bits: int
    outputs: int
    inputs: int

    def check(self) -> int:
        """The number of groups. Raises CompressionError, with the field, where types and shapes do not fit together."""
        tiles_shape = tiles.tiled_shape(self.outputs, self.inputs, self.bits)
        codes, scale = self.codes, self.scale
        if codes.shape != tiles_shape or codes.element_size() != 1 or not codes.is_contiguous():
            _refuse("codes", codes, f"contiguous tiles {[*tiles_shape]} of bytes")
        groups: int = scale.shape[1] if scale.dim() == 3 else 0
        if not groups or self.inputs % groups or scale.shape != (tiles_shape[0], groups, tiles.ROWS):
            _refuse("scale", scale, f"[{tiles_shape[0]}, G, 16], G a divisor of {self.inputs}")
        if not 0 < self.inputs <= MOST_INPUTS:
            raise CompressionError(f"inputs is {self.inputs}: 1 to {MOST_INPUTS} are possible, sums of more may not fit 32 bits")
        if scale.dtype != torch.float32 or not scale.is_contiguous():
            _refuse("scale", scale, "contiguous float32")
        if self.zero is not None and not _fits(self.zero, torch.int8, scale.shape):
            _refuse("zero", self.zero, f"contiguous int8 {[*scale.shape]}, as scale")
        if self.levels is not None and not _fits(self.levels, torch.int8, (1 << self.bits,)):
            _refuse("levels", self.levels, f"contiguous int8 [{1 << self.bits}]")
        if self.bias is not None and not _fits(self.bias, torch.float32, (self.outputs,)):
            _refuse("bias", self.bias, f"contiguous float32 [{self.outputs}]")
        return groups

    def numbers(self, groups: int) -> tuple[int, ...]:
        """What the native module takes of it, after its set."""
        pointers = (_pointer(self.levels), _pointer(self.zero), _pointer(self.bias))
        return self.codes.data_ptr(), self.scale.data_ptr(), *pointers, self.bits, self.outputs, self.inputs, groups


class Ready:
    """A weight that was checked, with what the native module takes of it: a layer keeps it from one call to the next.

    Where a layer's codes come from memory, so does the interpreter's work for it: checking takes as long as reading 1 MB of them.
    """

    __slots__ = ("_native", "groups", "numbers", "weight")

    def __init__(self, weight: Coded) -> None:
        """Raises CompressionError, with the field, where types and shapes do not fit together."""
        self.weight, self.groups = weight, weight.check()
        self.numbers = weight.numbers(self.groups)
        self._native = weight.codes.is_cpu and (self.groups == 1 or weight.inputs // self.groups % tiles.QUAD == 0)

    def __reduce__(self) -> tuple[type["Ready"], tuple[Coded]]:
        """A copy's tensors lie elsewhere."""
        return Ready, (self.weight,)

    def holds(self, codes: torch.Tensor | None, scale: torch.Tensor | None, bias: torch.Tensor | None) -> bool:
        """Whether it is still made of these, and they are where they were."""
        made = self.weight
        return codes is made.codes and scale is made.scale and bias is made.bias and made.codes.data_ptr() == self.numbers[0]

    def runs(self, x: torch.Tensor) -> bool:
        """Whether the native module does it: on the CPU, groups of whole quads."""
        return self._native and x.is_cpu and native.chosen.module is not None


def fixed(activation_scale: float | None) -> float:
    """The native module's argument: 0 for none. Raises CompressionError for what is no scale."""
    if activation_scale is None:
        return 0.0
    if not (math.isfinite(activation_scale) and activation_scale >= reference.SMALLEST):
        raise CompressionError(f"activation_scale is {activation_scale}: it has to be finite and above 0")
    return float(activation_scale)


def is_plain(x: torch.Tensor) -> bool:
    """Whether nothing is being traced, so that the native module may be called at once."""
    return type(x) is torch.Tensor and not _is_compiling()


def _fits(value: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> bool:
    return value.shape == shape and value.dtype == dtype and value.is_contiguous()


def _pointer(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _refuse(name: str, value: torch.Tensor, wanted: str) -> None:
    raise CompressionError(f"{name} is {value.dtype} {list(value.shape)}: it has to be {wanted}")
