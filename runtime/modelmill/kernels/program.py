"""Convolutions that follow each other as one native call: what lies between them stays in the processor's cache.

A program's values are numbered: its inputs first, then the result of each operation. A few samples at a time go through all
operations, so memory is read and written once, at the ends. Where a coded convolution follows, its input lies there as whole
numbers of 0..127 besides the floats; each sample has its own scale, unless calibration chose one, so results are those of
`coded_conv2d`, to the bit. Dense convolutions compute in float32, sums in the order of the inputs.

Coded weights have one group and no zero points, and what they convolve is never below 0 (the caller knows: it comes from a
relu). The native module is needed: see `available`.
"""

import logging
import struct
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from modelmill.compress.errors import CompressionError
from modelmill.kernels import native, tiles
from modelmill.kernels.conv import Geometry
from modelmill.kernels.layout import Layout, lay_out
from modelmill.kernels.operations import Dense, Operation
from modelmill.kernels.packing import runs_of
from modelmill.kernels.weight import Coded, fixed

logger = logging.getLogger(__name__)
SHAPES_KEPT = 8
"""Plans for so many shapes of images."""
DENSE_SETS = ("avx2", "avx512vnni")
"""Instruction sets that have dense products; the others would be slower than torch's."""
WEIGHTS_OF_A_SAMPLE = 1 << 20
"""Bytes of weights that one sample may bring into the cache; with more of them, more samples go together."""
AREA = 32 << 20
"""Bytes for what lies between operations, unless one sample takes more; a thread keeps them."""


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
    set_: int | None = None
    """Of instructions; none: the best one here."""
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
            block = min(batch, max(1, min(layout.weight_bytes // WEIGHTS_OF_A_SAMPLE, AREA // layout.area)))
            counts = (len(layout.shapes), len(self.operations), len(images), len(results))
            sizes = (batch, block, layout.area, plan.multiplications, torch.get_num_threads())
            pointers = (tensor.data_ptr() for tensor in (*images, *results))
            native.chosen.run(
                native.chosen.number if self.set_ is None else self.set_, plan.numbers.data_ptr(), *counts, *sizes, *pointers
            )
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
            numbers += (operation.x, residual, self.inputs + index, pixels, steps, operation.relu, operation.geometry.in_rows)
            multiplications += pixels * operation.weight.outputs * operation.weight.inputs
        return _Plan(
            layout=layout, numbers=torch.tensor(numbers, dtype=torch.int64), kept=tuple(kept), multiplications=multiplications
        )


def available(*, dense: bool) -> bool:
    """Whether programs run here; with `dense` operations in them."""
    return _agrees(native.chosen) and (not dense or native.chosen.isa in DENSE_SETS)


@cache
def _agrees(chosen: native.Chosen) -> bool:
    """Whether the instruction set runs a small program as plain C++ does: coded to the bit, dense up to the order of sums."""
    if chosen.module is None:
        return False
    source = torch.Generator().manual_seed(1)
    geometry = Geometry((3, 3), (1, 1), (1, 1), (1, 1))
    codes = tiles.prepare8(torch.randint(-127, 128, (20, 72), generator=source, dtype=torch.int8))
    scale = tiles.tile_scales(torch.rand(20, 1, generator=source) / 99)
    coded = Coded(codes, scale, None, None, torch.randn(20, generator=source), 8, 20, 72)
    dense = Dense.of(torch.randn(9, 20, 3, 3, generator=source), None)
    operations = (Operation(weight=coded, geometry=geometry, x=0), Operation(weight=dense, geometry=geometry, x=1))
    x = torch.rand(2, 8, 5, 7, generator=source)
    programs = [Program(operations=operations, inputs=1, outputs=(1, 2), set_=number) for number in (0, chosen.number)]
    (plain, sums), (ours, close) = (program.run(x) for program in programs)
    if torch.equal(plain, ours) and torch.allclose(sums, close, rtol=1e-4, atol=1e-4):
        return True
    logger.warning("%s runs programs of convolutions otherwise than plain C++ on this machine: none is made", chosen.isa)
    return False


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
    runs = runs_of(weight, steps, largest=127)
    assert runs is not None, "a step of signed bytes fits by itself"
    return runs


def _pointer(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _bits(value: float) -> int:
    (bits,) = struct.unpack("q", struct.pack("d", value))
    return int(bits)
