"""Where a program's values lie, and where each operation finds its operands: all that depends on the images' shapes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from modelmill.compress.errors import CompressionError
from modelmill.kernels import tiles
from modelmill.kernels.operations import Dense, Operation

ALIGNMENT = 64
FLOAT_BYTES = 4
Shape = tuple[int, int, int]


@dataclass(slots=True, kw_only=True, eq=False)
class Value:
    shape: Shape
    """(channels, height, width)"""
    border: int = 0
    """Pixels of zeros around the floats, as far as any dense convolution of it is padded."""
    whole_border: int = -1
    """The same for coded ones, around whole numbers; -1: there are none."""
    activation_scale: float | None = None
    floats_at: int = 0
    whole_at: int = 0
    """Bytes from the area's begin."""

    @property
    def padded_channels(self) -> int:
        return self.shape[0] + -self.shape[0] % tiles.QUAD

    def bytes(self) -> tuple[int, int]:
        """Of the floats, of the whole numbers."""
        channels, height, width = self.shape
        floats = (height + 2 * self.border) * (width + 2 * self.border) * channels * FLOAT_BYTES
        if self.whole_border < 0:
            return _rounded(floats), 0
        whole = (height + 2 * self.whole_border) * (width + 2 * self.whole_border) * self.padded_channels
        return _rounded(floats), _rounded(whole)


class Tables(NamedTuple):
    """int32 each, as the native module reads them."""

    offsets: torch.Tensor
    """[steps]: bytes from a window's begin to the operands of a step."""
    windows: torch.Tensor
    """[pixels]: bytes from the image's begin to the window."""
    out: torch.Tensor
    """[pixels]: floats from the result's begin to the pixel."""
    added: torch.Tensor | None
    """The same for the residual."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layout:
    values: tuple[Value, ...]
    area: int
    """Bytes for each sample."""
    weight_bytes: int

    @property
    def shapes(self) -> list[Shape]:
        return [value.shape for value in self.values]

    def tables(self, operation: Operation, out: Value) -> Tables:
        coded = not isinstance(operation.weight, Dense)
        x = self.values[operation.x]
        border, channels, size = (x.whole_border, x.padded_channels, 1) if coded else (x.border, x.shape[0], FLOAT_BYTES)
        line, pixel = (x.shape[2] + 2 * border) * channels * size, channels * size
        (height, width), stride, padding, dilation = operation.geometry
        step = tiles.QUAD * size if coded else size
        offsets = _grid(range(0, height * dilation[0], dilation[0]), line, range(0, width * dilation[1], dilation[1]), pixel)
        offsets = (offsets[:, None] + torch.arange(0, pixel, step)).flatten()
        down = [y * stride[0] - padding[0] + border for y in range(out.shape[1])]
        right = [x * stride[1] - padding[1] + border for x in range(out.shape[2])]
        added = None if operation.residual is None else _places(self.values[operation.residual])
        return Tables(
            offsets=_table(offsets),
            windows=_table(_grid(down, line, right, pixel)),
            out=_table(_places(out)),
            added=None if added is None else _table(added),
        )


def lay_out(operations: Sequence[Operation], shapes: Sequence[tuple[int, ...]]) -> Layout:
    """`shapes`: (C, H, W) of each input. Raises CompressionError where one does not fit an operation."""
    values = [Value(shape=_three(shape)) for shape in shapes]
    for operation in operations:
        values.append(Value(shape=_result(operation, values)))
    for operation in operations:
        _widen(values[operation.x], operation)
    weights = [operation.weight for operation in operations]
    weight_bytes = sum((weight.panel if isinstance(weight, Dense) else weight.codes).nbytes for weight in weights)
    return Layout(values=tuple(values), area=_place(operations, values), weight_bytes=weight_bytes)


def _three(shape: tuple[int, ...]) -> Shape:
    if len(shape) != 3:
        raise CompressionError(f"an input is [B, {', '.join(map(str, shape))}]: a convolution takes [B, C, H, W]")
    channels, height, width = shape
    return channels, height, width


def _result(operation: Operation, values: Sequence[Value]) -> Shape:
    channels, height, width = values[operation.x].shape
    geometry = operation.geometry
    dense = isinstance(operation.weight, Dense)
    wanted = geometry.kernel[0] * geometry.kernel[1] * channels if dense else geometry.inputs(channels)
    if wanted != operation.weight.inputs:
        raise CompressionError(
            f"x has {channels} channels, which make {wanted} inputs of a window: the weight takes {operation.weight.inputs}"
        )
    shape = (operation.weight.outputs, *geometry.sizes(torch.empty((1, channels, height, width), device="meta")))
    if operation.residual is not None and values[operation.residual].shape != shape:
        raise CompressionError(f"residual is {[*values[operation.residual].shape]}: it has to be {[*shape]}")
    return shape


def _widen(value: Value, operation: Operation) -> None:
    border = max(operation.geometry.padding)
    if not isinstance(operation.weight, Dense):
        if value.whole_border >= 0 and value.activation_scale != operation.activation_scale:
            raise CompressionError("convolutions of one value have different activation scales")
        value.whole_border = max(value.whole_border, border)
        value.activation_scale = operation.activation_scale
    else:
        value.border = max(value.border, border)


def _place(operations: Sequence[Operation], values: Sequence[Value]) -> int:
    """Gives each value its bytes, which another has once nobody reads them any more; the size of all."""
    inputs = len(values) - len(operations)
    last = [index - inputs for index in range(len(values))]
    for index, operation in enumerate(operations):
        for read in (operation.x, operation.residual):
            if read is not None:
                last[read] = index
    areas: list[tuple[int, int, int]] = []  # begin, end, the last operation that needs it
    size = 0
    for index, value in enumerate(values):
        areas = sorted(area for area in areas if area[2] >= index - inputs)
        floats, whole = value.bytes()
        value.floats_at = _free(areas, floats + whole)
        value.whole_at = value.floats_at + floats
        areas.append((value.floats_at, value.whole_at + whole, last[index]))
        size = max(size, value.whole_at + whole)
    return size


def _free(taken: Iterable[tuple[int, int, int]], size: int) -> int:
    """The first place with so many bytes; `taken` is in order."""
    at = 0
    for begin, end, _ in taken:
        if begin - at >= size:
            return at
        at = max(at, end)
    return at


def _places(value: Value) -> torch.Tensor:
    channels, height, width = value.shape
    border, line = value.border, (width + 2 * value.border) * channels
    return _grid(range(border, border + height), line, range(border, border + width), channels)


def _grid(rows: Iterable[int], line: int, columns: Iterable[int], pixel: int) -> torch.Tensor:
    down, right = torch.tensor([*rows]) * line, torch.tensor([*columns]) * pixel
    return (down[:, None] + right).flatten()


def _table(places: torch.Tensor) -> torch.Tensor:
    if int(places.max()) > torch.iinfo(torch.int32).max:
        raise CompressionError("an image is too large for a program: 2 GiB is the most")
    return places.to(torch.int32)


def _rounded(size: int) -> int:
    return size + -size % ALIGNMENT
