"""The Open Inference Protocol v2 over gRPC: a request's message to arrays, rows to an answer's message.

Tensors come raw, one `raw_input_contents` for each input, or typed, as numbers in `contents`; a request does not mix
the two, and FP16 and BF16 have only the raw form. Raw tensors become arrays without a copy. Answers are always raw.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from modelmill.datatypes import NUMPY, Array, objects
from modelmill.serve.errors import BadRequest
from modelmill.serve.protocols import raw as raw_tensors
from modelmill.serve.protocols.wire.inference import (
    InferParameter,
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
)
from modelmill.serve.protocols.wire.pool import decoded
from modelmill.serve.rows import Rows
from modelmill.signature import Tensor

CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""The field of `InferTensorContents` by datatype."""
NOT_SUPPORTED = ("classification", "shared_memory_region")
RAW_INPUT_CONTENTS, RAW_OUTPUT_CONTENTS = 7, 6
INFER_RESPONSE = 2
SPLIT_BYTES = 64 << 10
"""From this size on a message's raw tensors do not pass through protobuf, which would copy them twice."""
_FIXED = {1: 8, 5: 4}
"""Bytes of protobuf's fixed-size kinds."""
Raw = Sequence[bytes | memoryview]
Told = Sequence[tuple[tuple[int, ...], int]]
"""Of each output the shape and the size in bytes."""


def parsed(content: bytes | bytearray) -> tuple[ModelInferRequest, Raw]:
    """The request, and its raw tensors."""
    if len(content) < SPLIT_BYTES:
        request = decoded(ModelInferRequest, content)
        return request, request.raw_input_contents
    rest, raw = split(memoryview(content))
    return decoded(ModelInferRequest, rest), raw


def split(content: memoryview) -> tuple[bytes, list[memoryview]]:
    """A request's message without its raw tensors, and those, where they lie."""
    rest, raw = [], []
    position = 0
    try:
        while position < len(content):
            tag, start, end = _field(content, position)
            if end > len(content):
                raise IndexError
            if tag == RAW_INPUT_CONTENTS << 3 | 2:
                raw.append(content[start:end])
            else:
                rest.append(content[position:end])
            position = end
    except (IndexError, KeyError) as error:
        raise BadRequest("the message is not an inference.ModelInferRequest") from error
    return b"".join(rest), raw


def _field(content: memoryview, position: int) -> tuple[int, int, int]:
    """A field's tag, and where its value begins and ends, in protobuf's encoding."""
    tag, start = _number(content, position)
    kind = tag & 7
    if kind == 2:
        size, start = _number(content, start)
        return tag, start, start + size
    return tag, start, _number(content, start)[1] if kind == 0 else start + _FIXED[kind]


def _number(content: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for i in range(10):
        byte = content[position + i]
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, position + i + 1
    raise IndexError


def parameters_of(given: Mapping[str, InferParameter]) -> dict[str, Any]:
    """Booleans, integers, numbers and strings by name; those without a value are left out."""
    chosen = ((name, value, value.WhichOneof("parameter_choice")) for name, value in given.items())
    return {name: getattr(value, choice) for name, value, choice in chosen if choice}


def with_deadline(parameters: dict[str, Any], remaining: float | None) -> dict[str, Any]:
    """The parameters with a `timeout` of what is left until the client's deadline, in seconds, unless theirs is less."""
    if remaining is not None:
        # Not 0: that would mean no timeout.
        left = max(1, int(remaining * 1e6))
        own = parameters.get("timeout") or left
        parameters["timeout"] = min(own, left) if type(own) is int else own
    return parameters


def decode(tensors: Mapping[str, Tensor], request: ModelInferRequest, raw: Raw) -> dict[str, Array]:
    """The request's tensors by name; `tensors` are the model's inputs."""
    if raw and len(raw) != len(request.inputs):
        raise BadRequest(f"{len(raw)} raw_input_contents for {len(request.inputs)} inputs: when one input is raw, all are")
    arrays: dict[str, Array] = {}
    for i, given in enumerate(request.inputs):
        tensor = tensors.get(given.name)
        if tensor is None:
            raise BadRequest(f"inputs[{i}]: {given.name!r} is not one of the model's inputs: {', '.join(tensors)}")
        if tensor.name in arrays:
            raise BadRequest(f"input {tensor.name!r} is given twice")
        if given.parameters:
            _refuse(f"input {tensor.name!r}", given.parameters)
        shape = _shape(tensor, given)
        arrays[tensor.name] = _raw(tensor, shape, given, raw[i]) if raw else _typed(tensor, shape, given)
    return arrays


def _shape(tensor: Tensor, given: ModelInferRequest.InferInputTensor) -> tuple[int, ...]:
    if given.datatype != tensor.datatype:
        raise BadRequest(f"input {tensor.name!r}: datatype {given.datatype!r} given, the model needs {tensor.datatype}")
    shape = tuple(given.shape)
    if min(shape, default=0) < 0:
        raise BadRequest(f"input {tensor.name!r}: shape {list(shape)} must be a list of sizes, like {list(tensor.shape)}")
    return shape


def _raw(tensor: Tensor, shape: tuple[int, ...], given: ModelInferRequest.InferInputTensor, content: bytes | memoryview) -> Array:
    if given.HasField("contents") and given.contents.ByteSize():
        raise BadRequest(f"input {tensor.name!r} has contents and raw_input_contents: send one of them")
    needed = raw_tensors.size_of(tensor, shape)
    if needed is not None and len(content) != needed:
        raise BadRequest(
            f"input {tensor.name!r}: {len(content)} raw bytes, but {tensor.datatype} of shape {list(shape)} has {needed}"
        )
    return raw_tensors.array_of(tensor, shape, content)


def _typed(tensor: Tensor, shape: tuple[int, ...], given: ModelInferRequest.InferInputTensor) -> Array:
    name = CONTENTS.get(tensor.datatype)
    if name is None:
        raise BadRequest(f"input {tensor.name!r}: {tensor.datatype} has no typed contents, send it in raw_input_contents")
    if other := [field.name for field, _ in given.contents.ListFields() if field.name != name]:
        raise BadRequest(f"input {tensor.name!r}: {tensor.datatype} goes into {name}, not into {other[0]}")
    array = _narrow(tensor, getattr(given.contents, name))
    if array.size != math.prod(shape):
        raise BadRequest(f"input {tensor.name!r}: {array.size} values given, shape {list(shape)} holds {math.prod(shape)}")
    return array.reshape(shape)


def _narrow(tensor: Tensor, values: Sequence[Any]) -> Array:
    """The values in their datatype: the message's 32 bits may be more than an INT8 or UINT16 holds."""
    datatype = NUMPY[tensor.datatype]
    if tensor.datatype == "BYTES":
        return objects(values, (len(values),))
    if datatype.kind not in "iu" or datatype.itemsize >= 4:
        return np.fromiter(values, dtype=datatype, count=len(values))
    wide = np.fromiter(values, dtype=np.int64, count=len(values))
    bounds = np.iinfo(datatype)
    outside = wide[(wide < bounds.min) | (wide > bounds.max)]
    if outside.size:
        raise BadRequest(f"input {tensor.name!r}: {outside[0]} does not fit {tensor.datatype}")
    return wide.astype(datatype)


def outputs_asked(tensors: Mapping[str, Tensor], request: ModelInferRequest) -> Iterable[Tensor]:
    """Of the model's outputs those that the request wants, in its order."""
    for i, output in enumerate(request.outputs):
        if output.name not in tensors:
            raise BadRequest(f"outputs[{i}]: {output.name!r} is not one of the model's outputs: {', '.join(tensors)}")
        _refuse(f"output {output.name!r}", output.parameters)
    return [tensors[output.name] for output in request.outputs] or tensors.values()


def _refuse(whose: str, parameters: Mapping[str, InferParameter]) -> None:
    if unsupported := [name for name in NOT_SUPPORTED if name in parameters]:
        raise BadRequest(f"{whose}: the parameter {unsupported[0]!r} is not supported")


class Answers:
    """Writes outputs as messages in pieces, each tensor as it lies in memory.

    Repeated fields may follow the rest of a message, so the tensors need not pass through protobuf's memory. Most answers of
    a form are shaped like the one before: then all but the tensors is the same.
    """

    def __init__(self, answer: ModelInferResponse, asked: Iterable[Tensor]) -> None:
        """`answer` is what the message says besides its outputs."""
        self._answer = answer
        self._asked = tuple(asked)
        self._written: tuple[Told, bytes, list[bytes]] | None = None

    def __call__(self, rows: Rows) -> list[bytes | memoryview]:
        contents, told = [], []
        for tensor in self._asked:
            array = rows.arrays[tensor.name]
            content = raw_tensors.content_of(tensor, array)
            contents.append(content)
            told.append((array.shape, len(content)))
        if self._written is None or told != self._written[0]:
            self._written = told, self._described(told), [prefix(RAW_OUTPUT_CONTENTS, size) for _, size in told]
        _, described, prefixes = self._written
        return [described, *chain.from_iterable(zip(prefixes, contents, strict=True))]

    def _described(self, told: Told) -> bytes:
        answer = ModelInferResponse()
        answer.CopyFrom(self._answer)
        for tensor, (shape, _) in zip(self._asked, told, strict=True):
            answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=shape)
        return answer.SerializeToString()


def in_stream(message: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """A ModelInferResponse in pieces as a ModelStreamInferResponse."""
    return [prefix(INFER_RESPONSE, sum(len(piece) for piece in message)), *message]


def stream_error(content: bytes | bytearray, message: str) -> list[bytes]:
    """The answer to a request of a stream that was refused, with its id where it has one."""
    try:
        identity = parsed(content)[0].id
    except BadRequest:
        identity = ""
    answer = ModelStreamInferResponse(error_message=message, infer_response=ModelInferResponse(id=identity))
    return [answer.SerializeToString()]


def prefix(number: int, size: int) -> bytes:
    """What stands before a field of bytes or a message, in protobuf's encoding."""
    prefix = bytearray((number << 3 | 2,))
    while size > 0x7F:
        prefix.append(size & 0x7F | 0x80)
        size >>= 7
    prefix.append(size)
    return bytes(prefix)
