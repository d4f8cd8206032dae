"""What the signature says about rows: which fit it, which may share an execution, how they are joined and parted.

Rows of different lengths are padded to the longest of their batch where the signature allows it (`Tensor.pad`); an
output's free dimension that has the padded length is cut back to each request's own. Texts have lengths too: tokens are
made of them later, and those of similar length should meet.
"""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from modelmill.datatypes import Array
from modelmill.serve.errors import BadRequest
from modelmill.serve.rows import Rows, check_shape
from modelmill.signature import Signature, Tensor

BYTES_A_TOKEN = 4
"""Of a text, about; what counts is that lengths compare."""


class Shapes:
    def __init__(self, signature: Signature) -> None:
        self._inputs = {tensor.name: tensor for tensor in signature.inputs}
        self._padded = tuple(tensor for tensor in signature.inputs if tensor.pad is not None)
        self._texts = tuple(tensor.name for tensor in signature.inputs if tensor.datatype == "BYTES")
        # A constant key where every shape is fixed: comparing it costs nothing.
        self._free = tuple(tensor for tensor in signature.inputs if -1 in tensor.shape[1:])
        self._cut = {tensor.name: _free_axes(tensor) for tensor in signature.outputs} if self._padded else {}

    def checked(self, arrays: Mapping[str, Array]) -> Rows:
        """Rows in the signature's order; every array already has its declared datatype."""
        inputs = self._inputs
        if arrays.keys() != inputs.keys() and (unknown := [name for name in arrays if name not in inputs]):
            raise BadRequest(f"input {unknown[0]!r} is not one of the model's inputs: {', '.join(inputs)}")
        ordered: dict[str, Array] = {}
        first, count = "", -1
        for name, tensor in inputs.items():
            array = arrays.get(name)
            if array is None:
                raise BadRequest(f"input {name!r} is missing; the model needs {', '.join(inputs)}")
            if not array.ndim or array.shape[1:] != tensor.shape[1:]:
                check_shape(tensor, array.shape)
            if count < 0:
                first, count = name, array.shape[0]
            elif array.shape[0] != count:
                raise BadRequest(f"input {name!r} has {array.shape[0]} rows but input {first!r} has {count}")
            ordered[name] = array
        if count == 0:
            raise BadRequest(f"input {first!r} has no rows: send at least one")
        # Most models have fixed shapes: nothing tells their rows apart.
        key = self._key(ordered) if self._free else ()
        return Rows(ordered, count, key, self._length(ordered) if self._padded or self._texts else 0)

    def _key(self, arrays: Mapping[str, Array]) -> Hashable:
        # Where a dimension may be padded only its existence counts.
        return tuple(arrays[t.name].shape[1:] if t.pad is None else len(t.shape) for t in self._free)

    def _length(self, arrays: Mapping[str, Array]) -> int:
        elements = max((_elements(tensor, arrays[tensor.name]) for tensor in self._padded), default=0)
        tokens = [len(text) // BYTES_A_TOKEN + 1 for name in self._texts for text in arrays[name].flat]
        return max(elements, *tokens) if tokens else elements

    def join(self, many: Sequence[Rows]) -> Rows:
        """One batch of all; the arrays of a single member are not copied."""
        if len(many) == 1:
            return many[0]
        padding = {tensor.name: tensor.pad for tensor in self._padded}
        arrays = {}
        for name in many[0].arrays:
            pieces = [rows.arrays[name] for rows in many]
            pad = padding.get(name)
            arrays[name] = np.concatenate(pieces) if pad is None else padded(pieces, value=pad)
        return Rows(arrays, sum(rows.count for rows in many), many[0].key, max(rows.length for rows in many))

    def part(self, outputs: Rows, many: Sequence[Rows], *, joined: Rows) -> list[Rows]:
        """The outputs of each member of a batch, in their order. `joined`: all of them, padded as they were run."""
        if joined is many[0]:
            return [outputs]
        parts, start = [], 0
        for rows in many:
            part = outputs.part(start, start + rows.count)
            parts.append(self._cut_back(part, rows, joined) if self._cut and rows.length < joined.length else part)
            start += rows.count
        return parts

    def _cut_back(self, part: Rows, rows: Rows, joined: Rows) -> Rows:
        longer = {
            joined.arrays[tensor.name].shape[axis]: rows.arrays[tensor.name].shape[axis]
            for tensor in self._padded
            for axis in _free_axes(tensor)
        }
        arrays = dict(part.arrays)
        for name, axes in self._cut.items():
            for axis in axes:
                size = arrays[name].shape[axis]
                arrays[name] = arrays[name][(slice(None),) * axis + (slice(longer.get(size, size)),)]
        return Rows(arrays, part.count)


def _free_axes(tensor: Tensor) -> tuple[int, ...]:
    return tuple(axis for axis, size in enumerate(tensor.shape) if axis and size == -1)


def _elements(tensor: Tensor, array: Array) -> int:
    elements = 1
    for axis in _free_axes(tensor):
        elements *= array.shape[axis]
    return elements


def padded(pieces: Sequence[Array], *, value: int) -> Array:
    """The pieces one below the other, each filled up with `value` at the end of its shorter dimensions."""
    inner = tuple(max(sizes) for sizes in zip(*(piece.shape[1:] for piece in pieces), strict=True))
    whole = np.full((sum(len(piece) for piece in pieces), *inner), value, dtype=pieces[0].dtype)
    put(whole, pieces)
    return whole


def put(whole: Array, pieces: Sequence[Array]) -> None:
    """Writes the pieces one below the other; what lies beyond a shorter one's dimensions stays."""
    start = 0
    for piece in pieces:
        corner = tuple(slice(size) for size in piece.shape[1:])
        whole[(slice(start, start + len(piece)), *corner)] = piece
        start += len(piece)
