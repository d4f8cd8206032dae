"""Raw tensors, as both forms of the Open Inference Protocol send them: little-endian, row-major, without padding.

An array is a view of the request's memory wherever its address is aligned; nothing is copied for the protocol's sake.
"""

import math
from collections.abc import Sequence

import numpy as np

from modelmill.datatypes import NUMPY, Array, objects, packed, unpacked
from modelmill.serve.errors import BadRequest
from modelmill.signature import Tensor


def size_of(tensor: Tensor, shape: Sequence[int]) -> int | None:
    """In bytes; None of BYTES, which have any."""
    return None if tensor.datatype == "BYTES" else math.prod(shape) * NUMPY[tensor.datatype].itemsize


def array_of(tensor: Tensor, shape: Sequence[int], content: bytes | memoryview) -> Array:
    """`content` has as many bytes as `size_of` says."""
    if tensor.datatype == "BYTES":
        try:
            return objects(unpacked(content), shape)
        except ValueError as error:
            raise BadRequest(f"input {tensor.name!r}: {error}") from error
    dtype = np.uint8 if tensor.datatype == "BOOL" else NUMPY[tensor.datatype]
    array: Array = np.frombuffer(content, dtype=dtype).reshape(tuple(shape))
    # Bytes other than 0 and 1 are not booleans: torch's kernels would misread them.
    return array != 0 if tensor.datatype == "BOOL" else array


def content_of(tensor: Tensor, array: Array) -> bytes | memoryview:
    """An output; `array` may be of any dtype that numpy turns into the tensor's."""
    if tensor.datatype == "BYTES":
        return packed([element.encode() if isinstance(element, str) else bytes(element) for element in array.reshape(-1)])
    return np.ascontiguousarray(array, dtype=NUMPY[tensor.datatype]).reshape(-1).view(np.uint8).data
