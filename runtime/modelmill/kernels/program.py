"""Convolutions that follow each other as one native call: what lies between them stays in the processor's cache.

A program's values are numbered: its inputs first, then the result of each operation. A few samples at a time go through all
operations, so memory is read and written once, at the ends. Where a coded convolution follows, its input lies there as whole
numbers of 0..127 besides the floats; each sample has its own scale, unless calibration chose one, so results are those of
`coded_conv2d`, to the bit. Dense convolutions compute in float32, sums in the order of the inputs.

Coded weights have one group and no zero points, and what they convolve is never below 0 (the caller knows: it comes from a
relu). The native module is needed: see `available`.
"""

import struct
from dataclasses import dataclass, field
from typing import Any

import torch

from modelmill.compress.errors import CompressionError
from modelmill.kernels import native, tiles
from modelmill.kernels.layout import Layout, lay_out
from modelmill.kernels.operations import Dense, Operation
from modelmill.kernels.weight import Coded, fixed

SHAPES_KEPT = 8
"""Plans for so many shapes of images."""
DENSE_SETS = ("avx2", "avx512vnni")
"""Instruction sets that have dense products; the others would be slower than torch's."""
WEIGHTS_OF_A_SAMPLE = 1 << 20
"""Bytes of weights that one sample may bring into the cache; with more of them, more samples go together."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Plan:
    layout: Layout
    numbers: torch.Tensor
    """int64: what the native module reads."""
    kept: tuple[Any, ...]
    """Whatever `numbers` points to."""
    multiplications: int


@dataclass(slots=True, kw_only=True, eq=False)
class Program:
    """`run` may be called from several threads."""

    operations: tuple[Operation, ...]
    inputs: int
    outputs: tuple[int, ...]
    """The values that are returned."""
    _plans: dict[tuple[tuple[int, ...], ...], _Plan] = field(default_factory=dict)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Program":
        raise TypeError("a program points into its weights: make one for the copies")

    def run(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """inputs: float32 [B, C, H, W] each, of one B, on the CPU. Returns such tensors, channels last. Raises CompressionError
        where a shape does not fit an operation."""
        batch = inputs[0].shape[0]
        if any(tensor.shape[0] != batch for tensor in inputs):
            raise CompressionError(f"inputs have {[tensor.shape[0] for tensor in inputs]} rows: all need the same number")
        plan = self._plan(tuple(tuple(tensor.shape[1:]) for tensor in inputs))
        images = [tensor.contiguous(memory_format=torch.channels_last) for tensor in inputs]
        results = [self._empty(plan.layout.shapes[value], batch) for value in self.outputs]
        if batch:
            layout = plan.layout
            block = min(batch, max(1, layout.weight_bytes // WEIGHTS_OF_A_SAMPLE))
            counts = (len(layout.shapes), len(self.operations), len(images), len(results))
            sizes = (batch, block, layout.area, plan.multiplications, torch.get_num_threads())
            pointers = (tensor.data_ptr() for tensor in (*images, *results))
            native.chosen.run(native.chosen.number, plan.numbers.data_ptr(), *counts, *sizes, *pointers)
        return tuple(results)

    @staticmethod
    def _empty(shape: tuple[int, int, int], batch: int) -> torch.Tensor:
        return torch.empty((batch, *shape), memory_format=torch.channels_last)

    def _plan(self, shapes: tuple[tuple[int, ...], ...]) -> _Plan:
        if (plan := self._plans.get(shapes)) is None:
            if len(self._plans) >= SHAPES_KEPT:
                self._plans.clear()
            plan = self._plans[shapes] = self._made(shapes)
        return plan

    def _made(self, shapes: tuple[tuple[int, ...], ...]) -> _Plan:
        layout = lay_out(self.operations, shapes)
        kept: list[Any] = [self.operations]
        numbers: list[int] = []
        for index, value in enumerate(layout.values):
            taken = self.outputs.index(index) if index in self.outputs else -1
            numbers += (*value.shape, value.border, value.whole_border, value.floats_at, value.whole_at)
            numbers += (index if index < self.inputs else -1, taken, _bits(fixed(value.activation_scale)))
        multiplications = 0
        for index, operation in enumerate(self.operations):
            out = layout.values[self.inputs + index]
            tables = layout.tables(operation, out)
            steps, pixels = len(tables.offsets), out.shape[1] * out.shape[2]
            runs = _runs(operation.weight, steps)
            kept += (tables, *runs)
            residual = -1 if operation.residual is None else operation.residual
            pointers = (tables.offsets, tables.windows, tables.out, tables.added)
            numbers += (*_weight(operation.weight), *map(_pointer, (*runs, *pointers)))
            numbers += (operation.x, residual, self.inputs + index, pixels, steps, operation.relu)
            multiplications += pixels * operation.weight.outputs * operation.weight.inputs
        return _Plan(
            layout=layout, numbers=torch.tensor(numbers, dtype=torch.int64), kept=tuple(kept), multiplications=multiplications
        )


def available(*, dense: bool) -> bool:
    """Whether programs run here; with `dense` operations in them."""
    return native.chosen.module is not None and (not dense or native.chosen.isa in DENSE_SETS)


def takes(weight: Coded) -> bool:
    """Whether a coded weight can be in a program."""
    return weight.zero is None and weight.scale.dim() == 3 and weight.scale.shape[1] == 1


def _weight(weight: Coded | Dense) -> tuple[int, ...]:
    if isinstance(weight, Dense):
        return 0, 0, 0, _pointer(weight.bias), 0, weight.outputs, weight.inputs, weight.panel.data_ptr()
    if weight.check() != 1 or weight.zero is not None:
        raise CompressionError("a program's weights have one group and no zero points")
    pointers = (weight.codes.data_ptr(), weight.scale.data_ptr(), _pointer(weight.levels), _pointer(weight.bias))
    return *pointers, weight.bits, weight.outputs, weight.inputs, 0


def _runs(weight: Coded | Dense, steps: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Lengths of runs and the steps' order, for each tile."""
    if isinstance(weight, Dense):
        return None, None
    shape = (-(-weight.outputs // tiles.ROWS), steps)
    lengths, order = torch.empty(shape, dtype=torch.uint8), torch.empty(shape, dtype=torch.uint16)
    native.chosen.runs(*weight.numbers(1), steps, lengths.data_ptr(), order.data_ptr())
    return lengths, order


def _pointer(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _bits(value: float) -> int:
    (bits,) = struct.unpack("q", struct.pack("d", value))
    return int(bits)
