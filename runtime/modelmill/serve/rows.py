"""Rows: named tensors with a common first dimension, checked against the signature.

Everything between the protocols and the executor is rows. A client's mistake is found here, before anything waits in
the queue, so that one client's wrong shape can never fail another's request.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelmill.serve.datatypes import FLOATS, NUMPY, Array, to_bf16
from modelmill.serve.errors import BadRequest
from modelmill.signature import Tensor


@dataclass(frozen=True, slots=True)
class Rows:
    arrays: Mapping[str, Array]
    count: int

    @property
    def key(self) -> Hashable:
        """Equal keys may share an execution."""
        return tuple((name, array.dtype.str, array.shape[1:]) for name, array in self.arrays.items())

    def part(self, start: int, stop: int) -> "Rows":
        return Rows({name: array[start:stop] for name, array in self.arrays.items()}, stop - start)

    def split(self, most: int) -> "list[Rows]":
        if self.count <= most:
            return [self]
        return [self.part(start, min(start + most, self.count)) for start in range(0, self.count, most)]


def join(many: Sequence[Rows]) -> Rows:
    if len(many) == 1:
        return many[0]
    names = many[0].arrays
    return Rows({n: np.concatenate([rows.arrays[n] for rows in many]) for n in names}, sum(rows.count for rows in many))


def checked(inputs: Iterable[Tensor], arrays: Mapping[str, Array]) -> Rows:
    """Rows in the signature's order; every array already has its declared datatype."""
    wanted = {tensor.name: tensor for tensor in inputs}
    if unknown := [name for name in arrays if name not in wanted]:
        raise BadRequest(f"input {unknown[0]!r} is not one of the model's inputs: {', '.join(wanted)}")
    if missing := [name for name in wanted if name not in arrays]:
        raise BadRequest(f"input {missing[0]!r} is missing; the model needs {', '.join(wanted)}")
    for tensor in wanted.values():
        check_shape(tensor, arrays[tensor.name].shape)
    counts = {name: arrays[name].shape[0] for name in wanted}
    count = next(iter(counts.values()))
    if other := [name for name in counts if counts[name] != count]:
        first = next(iter(counts))
        raise BadRequest(f"input {other[0]!r} has {counts[other[0]]} rows but input {first!r} has {count}")
    if count == 0:
        raise BadRequest(f"input {next(iter(counts))!r} has no rows: send at least one")
    return Rows({name: arrays[name] for name in wanted}, count)


def check_shape(tensor: Tensor, shape: Sequence[int]) -> None:
    fits = len(shape) == len(tensor.shape) and all(w in (-1, g) for w, g in zip(tensor.shape, shape, strict=True))
    if not fits:
        raise BadRequest(f"input {tensor.name!r}: shape {list(shape)} does not fit the model's {list(tensor.shape)}")


def from_json(tensor: Tensor, data: Any) -> Array:
    """Numbers (or booleans) of a JSON document as an array of the tensor's datatype; the shape is the data's own."""
    try:
        raw = np.asarray(data)
    except ValueError as error:
        raise BadRequest(
            f"input {tensor.name!r}: its rows have different lengths; the model's shape is {list(tensor.shape)}"
        ) from error
    if raw.size == 0 and raw.dtype.kind == "f":
        return raw.astype(NUMPY[tensor.datatype])
    expected = "b" if tensor.datatype == "BOOL" else "fiu" if tensor.datatype in FLOATS else "iu"
    if raw.dtype.kind not in expected:
        raise BadRequest(f"input {tensor.name!r}: expected {tensor.datatype}, got {_described(raw)}")
    if tensor.datatype == "BF16":
        return to_bf16(raw)
    target = NUMPY[tensor.datatype]
    if target.kind in "iu" and raw.size:
        low, high = int(raw.min()), int(raw.max())
        bounds = np.iinfo(target)
        if low < bounds.min or high > bounds.max:
            worst = low if low < bounds.min else high
            raise BadRequest(f"input {tensor.name!r}: {worst} does not fit {tensor.datatype}")
    with np.errstate(over="ignore"):
        return raw.astype(target)


def _described(raw: Array) -> str:
    words = {"b": "booleans", "f": "numbers with fractions", "i": "integers", "u": "integers", "U": "strings"}
    return words.get(raw.dtype.kind, "values that are not all numbers (null, objects or mixed types)")
