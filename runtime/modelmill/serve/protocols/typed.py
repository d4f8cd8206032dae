"""The usual JSON request, read in one go: flat numbers in the right datatypes and shapes, and at most an id besides.

msgspec parses it and checks its types in C, which for a small body costs a third of asking a parser's views for each
field. Whatever is otherwise, wrong or only rare, is left to `oip_http.decode`, which can say what is wrong: nothing is
refused here.
"""

import math
from array import array
from typing import Generic, TypeVar

import msgspec
import numpy as np

from modelmill.datatypes import NUMPY, Array
from modelmill.serve.http import Bytes
from modelmill.signature import Signature, Tensor

MOST_BYTES = 4 << 10
"""Of a body; numbers of larger ones shall not become Python objects."""
FLOATS = {"FP32": "f", "FP64": "d"}
"""Datatypes and Python's type codes for arrays of them."""
INTEGERS = {"INT8": "b", "UINT8": "B", "INT16": "h", "UINT16": "H", "INT32": "i", "UINT32": "I", "INT64": "q", "UINT64": "Q"}
N = TypeVar("N", int, float)


class _Input(msgspec.Struct, Generic[N], forbid_unknown_fields=True):
    name: str
    datatype: str
    shape: list[int]
    data: list[N]


class _Request(msgspec.Struct, Generic[N], forbid_unknown_fields=True):
    inputs: list[_Input[N]]
    id: str | None = None


class Typed:
    """Reads requests for one signature."""

    def __init__(self, signature: Signature) -> None:
        self._tensors = {tensor.name: tensor for tensor in signature.inputs}
        datatypes = {tensor.datatype for tensor in signature.inputs}
        self._codes = next((codes for codes in (FLOATS, INTEGERS) if datatypes <= codes.keys()), None)
        kind = float if self._codes is FLOATS else int
        self._decoder = msgspec.json.Decoder(_Request[kind])  # type: ignore[valid-type]

    def decode(self, body: Bytes) -> tuple[dict[str, Array], str | None] | None:
        """The tensors by name and the request's id; None of what is not a usual request."""
        if self._codes is None or len(body) > MOST_BYTES:
            return None
        try:
            request = self._decoder.decode(body)
            arrays = {given.name: self._array(given) for given in request.inputs}
        except (msgspec.MsgspecError, ValueError, OverflowError, KeyError):
            return None
        return (arrays, request.id) if arrays and len(arrays) == len(request.inputs) else None

    def _array(self, given: "_Input[int] | _Input[float]") -> Array:
        tensor, shape, data = self._tensors[given.name], given.shape, given.data
        if given.datatype != tensor.datatype or not _fits(shape, tensor) or len(data) != math.prod(shape):
            raise ValueError
        assert self._codes is not None
        # Not numpy's: this is faster, and numbers too large for FP32 become infinite without a warning.
        values: Array = np.frombuffer(array(self._codes[tensor.datatype], data), NUMPY[tensor.datatype])
        return values.reshape(shape)


def _fits(shape: list[int], tensor: Tensor) -> bool:
    inner = tensor.shape[1:]
    if tuple(shape[1:]) == inner:
        return bool(shape)
    return len(shape) == len(tensor.shape) and all(w in (-1, g) for w, g in zip(inner, shape[1:], strict=True))
