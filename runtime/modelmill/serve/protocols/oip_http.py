"""The Open Inference Protocol v2 over HTTP, in JSON and with the binary tensor extension both ways.

A request names its tensors with datatype and shape; the data is JSON, nested or flat, or raw bytes after the JSON
header in the order of the inputs. Health tells the truth: ready means that the model answers. FP16 and BF16 have no
JSON form in the protocol; they are accepted and answered as plain numbers, because there is one obvious meaning.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import orjson
import simdjson

import modelmill.serve.protocols.oip_binary as binary
from modelmill.datatypes import NUMPY, Array
from modelmill.serve.errors import BadRequest, NotReady
from modelmill.serve.http import Request, Response, json_response
from modelmill.serve.inference import Ask, Inference, Phase
from modelmill.serve.options import Options, options_of
from modelmill.serve.protocols import raw
from modelmill.serve.protocols.document import document, members, numbers_of, plain
from modelmill.serve.protocols.forms import MOST_BYTES, Forms, Layout, layout
from modelmill.serve.router import Route
from modelmill.serve.rows import Rows, as_json, check_shape
from modelmill.signature import Tensor


@dataclass(frozen=True, slots=True)
class Form:
    """What a request's JSON header says, where all of its tensors follow the header."""

    layout: Layout
    size: int
    """Bytes of all tensors."""
    encode: Callable[[Rows], Response]
    options: Options


EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "schedule_policy", "statistics")
"""Triton's names for what is here besides the required methods; most of it is in `protocols.repository`."""
SERVER_NAME = "modelmill"
SERVER_VERSION = "0.1.0"
PLATFORM = "pytorch"
NONE: Mapping[str, Any] = {}


def routes(inference: Inference) -> tuple[Route, ...]:
    """Only inference counts as `v2` in the metrics: health and metadata are `other`."""
    api = OpenInference(inference)
    fixed = (
        Route(method="GET", path="/v2", endpoint=api.server),
        Route(method="GET", path="/v2/health/live", endpoint=api.live),
        Route(method="GET", path="/v2/health/ready", endpoint=api.ready),
    )
    of_model = []
    for base in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        of_model += [
            Route(method="GET", path=base, endpoint=api.model),
            Route(method="GET", path=f"{base}/ready", endpoint=api.model_ready),
            Route(method="POST", path=f"{base}/infer", endpoint=api.infer, protocol="v2"),
        ]
    return (*fixed, *of_model)


class OpenInference:
    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._answer = {"model_name": inference.model, "model_version": inference.version}
        self._forms: Forms[bytes, Form] = Forms()

    def server(self, request: Request, values: Mapping[str, str]) -> Response:
        return json_response({"name": SERVER_NAME, "version": SERVER_VERSION, "extensions": EXTENSIONS})

    def live(self, request: Request, values: Mapping[str, str]) -> Response:
        # The protocol asks for the status alone; KServe's client reads this.
        return json_response({"live": True})

    def ready(self, request: Request, values: Mapping[str, str]) -> Response:
        if self._inference.phase is not Phase.READY:
            raise NotReady(f"the server is {self._inference.phase.value}")
        return json_response({"ready": True})

    def model(self, request: Request, values: Mapping[str, str]) -> Response:
        self._find(values)
        signature = self._inference.signature
        return json_response(
            {
                "name": self._inference.model,
                "versions": [self._inference.version],
                "platform": PLATFORM,
                "inputs": [_described(tensor) for tensor in signature.inputs],
                "outputs": [_described(tensor) for tensor in signature.outputs],
            }
        )

    def model_ready(self, request: Request, values: Mapping[str, str]) -> Response:
        self._inference.require(values["model"], values.get("version"))
        return json_response({"name": self._inference.model, "ready": True})

    def infer(self, request: Request, values: Mapping[str, str]) -> Ask:
        inference = self._inference
        inference.require(values["model"], values.get("version"))
        header, tail = binary.split(request)
        described = bytes(header) if tail and len(header) <= MOST_BYTES else b""
        if (form := self._forms.get(described)) and form.size == len(tail):
            return Ask(form.layout.rows(tail), form.encode, form.options)
        content = document(header)
        parameters = _parameters(content) if "parameters" in content else NONE
        answer = dict(self._answer)
        if (identity := content.get("id")) is not None:
            identity = plain(identity)
            if not isinstance(identity, str):
                raise BadRequest(f'expected "id" to be a string, got {identity!r}')
            answer["id"] = identity
        asked = outputs_asked(inference.outputs, plain(content.get("outputs")), parameters)
        arrays = decode(inference.inputs, content.get("inputs"), tail)
        ask = Ask(inference.rows(arrays), partial(encode, answer, asked), options_of(parameters))
        # A name of its own makes each request another.
        if described and identity is None:
            self._learn(described, len(tail), arrays, ask, asked)
        return ask

    def _learn(
        self, header: bytes, size: int, arrays: Mapping[str, Array], ask: Ask, asked: Sequence[tuple[Tensor, bool]]
    ) -> None:
        """`arrays` are in the order in which they were sent; `size` is that of all raw tensors."""
        ends = list(accumulate(array.nbytes for array in arrays.values()))
        # Else numbers of some are in the JSON.
        if ends[-1] == size and (found := layout(ask.rows, dict(zip(arrays, (0, *ends), strict=False)))):
            raw_only = all(as_bytes for _, as_bytes in asked)
            encode = binary.Answers(self._answer, [tensor for tensor, _ in asked]) if raw_only else ask.encode
            self._forms.learn(header, Form(found, size, encode, ask.options))

    def _find(self, values: Mapping[str, str]) -> None:
        self._inference.find(values["model"], values.get("version"))


def _described(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def decode(tensors: Mapping[str, Tensor], inputs: Any, tail: memoryview) -> dict[str, Array]:
    """The request's tensors by name; `tail` is what follows the JSON header."""
    if not isinstance(inputs, simdjson.Array) or not len(inputs):
        raise BadRequest('expected "inputs" to be a list of tensors')
    following = binary.Tail(tail)
    arrays: dict[str, Array] = {}
    for i, given in enumerate(inputs):
        if not isinstance(given, simdjson.Object):
            raise BadRequest(f"inputs[{i}]: expected an object with name, datatype, shape and data")
        fields = members(given)
        name = fields.get("name")
        if not isinstance(name, str) or name not in tensors:
            raise BadRequest(f"inputs[{i}]: {plain(name)!r} is not one of the model's inputs: {', '.join(tensors)}")
        if name in arrays:
            raise BadRequest(f"input {name!r} is given twice")
        arrays[name] = _array(tensors[name], fields, following)
    following.finish()
    return arrays


def _array(tensor: Tensor, given: Mapping[str, Any], following: binary.Tail) -> Array:
    if given.get("datatype") != tensor.datatype:
        datatype = plain(given.get("datatype"))
        raise BadRequest(f"input {tensor.name!r}: datatype {datatype!r} given, the model needs {tensor.datatype}")
    shape = plain(given.get("shape"))
    if not isinstance(shape, list) or [size for size in shape if type(size) is not int or size < 0]:
        raise BadRequest(f"input {tensor.name!r}: shape {shape!r} must be a list of sizes, like {list(tensor.shape)}")
    if not shape or tuple(shape[1:]) != tensor.shape[1:]:
        check_shape(tensor, shape)
    size = binary.size_of(tensor.name, plain(given["parameters"])) if "parameters" in given else None
    if size is not None:
        return following.take(tensor, size, shape)
    data = given.get("data")
    if data is None:
        raise BadRequest(f'input {tensor.name!r} has neither "data" nor the parameter "binary_data_size"')
    if not isinstance(data, simdjson.Array):
        raise BadRequest(f'input {tensor.name!r}: expected "data" to be a list, got {plain(data)!r:.40}')
    array = numbers_of(tensor, data)
    if array.size != math.prod(shape):
        raise BadRequest(f"input {tensor.name!r}: {array.size} values given, shape {shape} holds {math.prod(shape)}")
    return array.reshape(shape)


def outputs_asked(tensors: Mapping[str, Tensor], wanted: Any, parameters: Mapping[str, Any]) -> list[tuple[Tensor, bool]]:
    """The outputs to answer with, and whether each goes as raw bytes."""
    default = _switch(parameters, "binary_data_output", default=False)
    if wanted is None or wanted == []:
        return [(tensor, default) for tensor in tensors.values()]
    if not isinstance(wanted, list):
        raise BadRequest('expected "outputs" to be a list')
    asked = []
    for i, output in enumerate(wanted):
        name = output.get("name") if isinstance(output, dict) else None
        if not isinstance(name, str) or name not in tensors:
            raise BadRequest(f"outputs[{i}]: {name!r} is not one of the model's outputs: {', '.join(tensors)}")
        own = _parameters(output)
        if unsupported := {"classification", "shared_memory_region"} & {k for k, v in own.items() if v}:
            raise BadRequest(f"output {name!r}: the parameter {unsupported.pop()!r} is not supported")
        asked.append((tensors[name], _switch(own, "binary_data", default=default)))
    return asked


def _switch(parameters: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise BadRequest(f"the parameter {name}: {value!r} must be true or false")
    return value


def _parameters(holder: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = holder.get("parameters")
    if parameters is None:
        return NONE
    parameters = plain(parameters)
    if not isinstance(parameters, dict):
        raise BadRequest('expected "parameters" to be an object')
    return parameters


def encode(answer: Mapping[str, Any], asked: list[tuple[Tensor, bool]], rows: Rows) -> Response:
    tensors: list[dict[str, Any]] = []
    tail: list[bytes | memoryview] = []
    for tensor, as_bytes in asked:
        array = rows.arrays[tensor.name]
        if as_bytes:
            content = raw.content_of(tensor, array)
            tail.append(content)
            tensors.append(binary.described(tensor, array.shape, len(content)))
        else:
            data = as_json(tensor, np.ascontiguousarray(array, dtype=NUMPY[tensor.datatype]).reshape(-1))
            tensors.append({"name": tensor.name, "datatype": tensor.datatype, "shape": list(array.shape), "data": data})
    header = orjson.dumps({**answer, "outputs": tensors}, option=orjson.OPT_SERIALIZE_NUMPY)
    return binary.response(header, tail) if tail else Response(body=(header,))
