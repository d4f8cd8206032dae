"""The Open Inference Protocol's datatypes as numpy arrays, for the server and for its clients.

numpy has no bfloat16: such tensors travel as their bits in uint16 and become numbers only at the edges (JSON, torch, a
client's arrays). BYTES are objects, each a `bytes`; raw they stand one behind the other, each after its length.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

NUMPY: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}
FLOATS = frozenset({"FP16", "BF16", "FP32", "FP64"})
_NAMES = {dtype: name for name, dtype in NUMPY.items() if name != "BF16"}


def name_of(dtype: np.dtype[Any]) -> str | None:
    """The datatype that an array of this dtype is sent as; None when the protocol has none (complex numbers, dates)."""
    if dtype.kind in "OSU":
        return "BYTES"
    if dtype.name == "bfloat16":  # of the package ml_dtypes, which JAX and others use
        return "BF16"
    return _NAMES.get(dtype.newbyteorder("<"))


def to_bf16(values: Array) -> Array:
    """The bits of the nearest bfloat16 (ties to even)."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet_nan = (bits >> np.uint32(16)) | np.uint32(0x40)
    return np.where(np.isnan(values), quiet_nan, rounded).astype(np.uint16)


def from_bf16(bits: Array) -> Array:
    wide: Array = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return wide


def numbers(array: Array, datatype: str) -> Array:
    """The array as JSON shows it."""
    return from_bf16(array) if datatype == "BF16" else array


LENGTH_BYTES = 4
"""Before each element of a raw BYTES tensor: its length, little-endian."""


def packed(elements: Iterable[bytes]) -> bytes:
    """A raw BYTES tensor."""
    return b"".join(piece for element in elements for piece in (len(element).to_bytes(LENGTH_BYTES, "little"), element))


def unpacked(raw: bytes | memoryview) -> list[bytes]:
    """The elements of a raw BYTES tensor; raises ValueError where it ends within one."""
    elements, position = [], 0
    while position < len(raw):
        start = position + LENGTH_BYTES
        position = start + int.from_bytes(raw[start - LENGTH_BYTES : start], "little")
        if start > len(raw) or position > len(raw):
            raise ValueError("a BYTES element is longer than its tensor")
        elements.append(bytes(raw[start:position]))
    return elements


def objects(elements: Sequence[bytes | str], shape: Sequence[int]) -> Array:
    """An array of them; raises ValueError when there are not as many as the shape holds."""
    if len(elements) != math.prod(shape):
        raise ValueError(f"{len(elements)} elements for shape {list(shape)}")
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array.reshape(tuple(shape))
