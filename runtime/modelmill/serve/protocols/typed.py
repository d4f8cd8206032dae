"""The usual JSON request, read in one go: flat numbers in the right datatypes and shapes, and at most an id besides.

msgspec parses it and checks its types in C, which for a small body costs a third of asking a parser's views for each
field. Whatever is otherwise, wrong or only rare, is left to `oip_http.decode`, which can say what is wrong: nothing is
refused here.
"""

import math
from array import array
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
import numpy as np

from modelmill.datatypes import NUMPY, Array
from modelmill.serve.http import Bytes
from modelmill.serve.rows import Rows
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


class _Expected(NamedTuple):
    datatype: str
    inner: list[int]
    """The shape without the batch."""
    elements: int
    """Of one row."""
    code: str
    dtype: np.dtype[Any]


class Typed:
    """Reads requests for one signature, where all shapes are fixed but the batch and all datatypes of one kind."""

    def __init__(self, signature: Signature) -> None:
        datatypes = {tensor.datatype for tensor in signature.inputs}
        codes = next((codes for codes in (FLOATS, INTEGERS) if datatypes <= codes.keys()), None)
        self._expected: dict[str, _Expected] = {}
        if codes and not any(-1 in tensor.shape[1:] for tensor in signature.inputs):
            self._expected = {tensor.name: _expected(tensor, codes[tensor.datatype]) for tensor in signature.inputs}
        kind = float if codes is FLOATS else int
        self._decoder = msgspec.json.Decoder(_Request[kind])  # type: ignore[valid-type]  # chosen at run time

    def decode(self, body: Bytes) -> tuple[Rows, str | None] | None:
        """The model's rows and the request's id; None of what is not a usual request."""
        if not self._expected or len(body) > MOST_BYTES:
            return None
        try:
            request = self._decoder.decode(body)
            arrays = {given.name: self._array(given) for given in request.inputs}
        except (msgspec.MsgspecError, ValueError, OverflowError, LookupError):
            return None
        # In the signature's order, which modules are called in.
        if len(arrays) != len(request.inputs) or len(arrays) != len(self._expected):
            return None
        if len(arrays) > 1:
            arrays = {name: arrays[name] for name in self._expected}
        counts = {len(array) for array in arrays.values()}
        count = counts.pop()
        return (Rows(arrays, count), request.id) if count and not counts else None

    def _array(self, given: "_Input[int] | _Input[float]") -> Array:
        expected, shape, data = self._expected[given.name], given.shape, given.data
        if given.datatype != expected.datatype or shape[1:] != expected.inner or len(data) != shape[0] * expected.elements:
            raise ValueError
        # Not numpy's own: this is faster, and numbers too large for FP32 become infinite without a warning.
        values: Array = np.frombuffer(array(expected.code, data), expected.dtype)
        return values.reshape(shape)


def _expected(tensor: Tensor, code: str) -> _Expected:
    inner = list(tensor.shape[1:])
    return _Expected(tensor.datatype, inner, math.prod(inner), code, NUMPY[tensor.datatype])
