"""The binary tensor extension: raw tensors behind a JSON header whose length a header field tells.

Tensors stand one after the other in the order of `inputs`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from modelmill.datatypes import Array
from modelmill.serve.errors import BadRequest
from modelmill.serve.http import Request, Response
from modelmill.serve.protocols import raw
from modelmill.serve.rows import Rows
from modelmill.signature import Tensor

HEADER = "Inference-Header-Content-Length"
FIELD = HEADER.lower()


def split(request: Request) -> tuple[memoryview, memoryview]:
    """The JSON header, and the raw tensors after it."""
    body = memoryview(request.body)
    text = request.headers.get(FIELD)
    if text is None:
        return body, body[:0]
    if not text.isascii() or not text.isdigit() or int(text) > len(body):
        raise BadRequest(f"the header {HEADER}: {text[:40]!r} is not a length within the body of {len(body)} bytes")
    return body[: int(text)], body[int(text) :]


def size_of(name: str, parameters: Any) -> int | None:
    """The tensor's `binary_data_size`; None when its data is in the JSON."""
    if parameters is None:
        return None
    if not isinstance(parameters, dict):
        raise BadRequest(f"input {name!r}: parameters must be an object")
    if "shared_memory_region" in parameters:
        raise BadRequest(f"input {name!r}: shared memory is not supported, send the data")
    size = parameters.get("binary_data_size")
    if size is not None and (type(size) is not int or size < 0):
        raise BadRequest(f"input {name!r}: binary_data_size {size!r} is not a number of bytes")
    return size


class Tail:
    """The raw tensors, taken one after the other."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._position = 0

    def take(self, tensor: Tensor, size: int, shape: Sequence[int]) -> Array:
        needed = raw.size_of(tensor, shape)
        if needed is not None and size != needed:
            raise BadRequest(
                f"input {tensor.name!r}: binary_data_size {size}, but {tensor.datatype} of shape {list(shape)} has {needed} bytes"
            )
        end = self._position + size
        if end > len(self._data):
            raise BadRequest(
                f"input {tensor.name!r}: {size} bytes announced, {len(self._data) - self._position} are left in the body"
            )
        piece = self._data[self._position : end]
        self._position = end
        return raw.array_of(tensor, shape, piece)

    def finish(self) -> None:
        if self._position != len(self._data):
            raise BadRequest(f"{len(self._data) - self._position} bytes follow the last tensor; no input announced them")


class Answers:
    """Answers whose outputs all go as raw bytes. Most are shaped like the one before: then the header is the same."""

    def __init__(self, answer: Mapping[str, Any], asked: Sequence[Tensor]) -> None:
        """`answer` is what the header says besides its outputs."""
        self._answer = answer
        self._asked = asked
        self._written: tuple[Any, bytes] = (None, b"")

    def __call__(self, rows: Rows) -> Response:
        contents = [raw.content_of(tensor, rows.arrays[tensor.name]) for tensor in self._asked]
        told = [(rows.arrays[tensor.name].shape, len(content)) for tensor, content in zip(self._asked, contents, strict=True)]
        if told != self._written[0]:
            outputs = [described(tensor, shape, size) for tensor, (shape, size) in zip(self._asked, told, strict=True)]
            self._written = told, orjson.dumps({**self._answer, "outputs": outputs})
        return response(self._written[1], contents)


def described(tensor: Tensor, shape: Sequence[int], size: int) -> dict[str, Any]:
    """An output in the header: `size` is in bytes."""
    parameters = {"binary_data_size": size}
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(shape), "parameters": parameters}


def response(header: bytes, tail: Sequence[bytes | memoryview]) -> Response:
    return Response(body=(header, *tail), content_type="application/octet-stream", headers=((HEADER, str(len(header))),))
