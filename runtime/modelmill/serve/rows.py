"""Rows: named tensors with a common first dimension, checked against the signature.

Everything between the protocols and the executor is rows. A client's mistake is found here, before anything waits in
the queue, so that one client's wrong shape can never fail another's request.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelmill.datatypes import FLOATS, NUMPY, Array, numbers, objects, to_bf16
from modelmill.serve.errors import BadRequest
from modelmill.signature import Tensor

TOKENS = "\0tokens"
"""Beside the outputs of an encoder of texts: how many tokens each row had. No name that a signature could have."""
EXACT = 2**53
"""Doubles up to here hold every integer."""


# Not frozen: freezing makes it three times as slow to make, and several are made for each request.
@dataclass(slots=True)
class Rows:
    arrays: Mapping[str, Array]
    count: int
    key: Hashable = ()
    """Equal keys may share an execution."""
    length: int = 0
    """Elements of one row along the dimensions that may be padded; 0 where nothing may."""

    def part(self, start: int, stop: int) -> "Rows":
        arrays = {name: array[start:stop] for name, array in self.arrays.items()}
        return Rows(arrays, stop - start, self.key, self.length)

    def split(self, most: int) -> "list[Rows]":
        if self.count <= most:
            return [self]
        return [self.part(start, min(start + most, self.count)) for start in range(0, self.count, most)]


def stacked(many: Sequence[Rows]) -> Rows:
    """The parts of one request, one below the other."""
    if len(many) == 1:
        return many[0]
    arrays = {name: np.concatenate([rows.arrays[name] for rows in many]) for name in many[0].arrays}
    return Rows(arrays, sum(rows.count for rows in many))


def check_shape(tensor: Tensor, shape: Sequence[int]) -> None:
    fits = len(shape) == len(tensor.shape) and all(w in (-1, g) for w, g in zip(tensor.shape, shape, strict=True))
    if not fits:
        raise BadRequest(f"input {tensor.name!r}: shape {list(shape)} does not fit the model's {list(tensor.shape)}")


def from_json(tensor: Tensor, data: Any, *, booleans: bool = True) -> Array:
    """Numbers (or booleans) of a JSON document as an array of the tensor's datatype; the shape is the data's own.

    `booleans` tells whether there are any in the document: then they are looked for among the numbers. BYTES are texts."""
    if tensor.datatype == "BYTES":
        return _texts(tensor, data)
    try:
        raw = np.asarray(data)
    except ValueError as error:
        raise _ragged(tensor) from error
    if raw.size == 0 and raw.dtype.kind == "f":
        return raw.astype(NUMPY[tensor.datatype])
    if booleans and raw.dtype.kind in "fiu" and _has_booleans(data):
        raise BadRequest(f"input {tensor.name!r}: expected {tensor.datatype}, got booleans among the numbers")
    if raw.dtype.kind == "f" and NUMPY[tensor.datatype].kind in "iu" and tensor.datatype != "BF16":
        raw = _whole(raw)
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


def _ragged(tensor: Tensor) -> BadRequest:
    return BadRequest(f"input {tensor.name!r}: its rows have different lengths; the model's shape is {list(tensor.shape)}")


def _texts(tensor: Tensor, data: Any) -> Array:
    """Strings as their UTF-8; not by numpy, which gives each the longest one's memory."""
    level: list[Any] = [data]
    shape: list[int] = []
    while level and isinstance(level[0], list):
        sizes = {len(each) if isinstance(each, list) else -1 for each in level}
        if len(sizes) > 1:
            raise _ragged(tensor)
        shape.append(sizes.pop())
        level = [element for each in level for element in each]
    for element in level:
        if not isinstance(element, str):
            raise BadRequest(f"input {tensor.name!r}: expected strings, got {element!r:.40}")
    return objects([element.encode() for element in level], shape)


def as_json(tensor: Tensor, array: Array) -> Any:
    """An output as JSON shows it: an array for orjson, or lists of texts."""
    if tensor.datatype != "BYTES":
        return numbers(array, tensor.datatype)
    try:
        texts = [element if isinstance(element, str) else bytes(element).decode() for element in array.reshape(-1)]
    except UnicodeDecodeError as error:
        raise BadRequest(f"output {tensor.name!r} is not text, which is all that JSON can carry: ask for binary data") from error
    return objects(texts, array.shape).tolist()


def _has_booleans(data: Any) -> bool:
    """numpy takes them for 0 and 1."""
    return any(map(_has_booleans, data)) if isinstance(data, list) else type(data) is bool


def _whole(raw: Array) -> Array:
    """Integers that were written as 1.0, where doubles are exact; anything else as it is."""
    exact = raw.size and bool((np.abs(raw) <= EXACT).all()) and bool((raw == np.floor(raw)).all())
    return raw.astype(np.int64) if exact else raw


def _described(raw: Array) -> str:
    words = {"b": "booleans", "f": "numbers with fractions", "i": "integers", "u": "integers", "U": "strings"}
    return words.get(raw.dtype.kind, "values that are not all numbers (null, objects or mixed types)")
