"""The Open Inference Protocol v2 over HTTP, in JSON and with the binary tensor extension both ways.

A request names its tensors with datatype and shape; the data is JSON, nested or flat, or raw bytes after the JSON
header in the order of the inputs. Health tells the truth: ready means that the model answers. FP16 and BF16 have no
JSON form in the protocol; they are accepted and answered as plain numbers, because there is one obvious meaning.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

import modelmill.serve.protocols.oip_binary as binary
from modelmill.serve.datatypes import NUMPY, Array, numbers
from modelmill.serve.errors import BadRequest, NotReady
from modelmill.serve.http import Request, Response, json_response
from modelmill.serve.inference import Inference, Phase
from modelmill.serve.protocols.v1 import document
from modelmill.serve.router import Route
from modelmill.serve.rows import Rows, check_shape, from_json
from modelmill.signature import Signature, Tensor

EXTENSIONS = ["binary_tensor_data"]
SERVER_NAME = "modelmill"
SERVER_VERSION = "0.1.0"
PLATFORM = "pytorch"


def routes(inference: Inference) -> tuple[Route, ...]:
    api = OpenInference(inference)
    fixed = (
        Route(method="GET", path="/v2", endpoint=api.server, protocol="v2"),
        Route(method="GET", path="/v2/health/live", endpoint=api.live, protocol="v2"),
        Route(method="GET", path="/v2/health/ready", endpoint=api.ready, protocol="v2"),
    )
    of_model = []
    for base in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        of_model += [
            Route(method="GET", path=base, endpoint=api.model, protocol="v2"),
            Route(method="GET", path=f"{base}/ready", endpoint=api.model_ready, protocol="v2"),
            Route(method="POST", path=f"{base}/infer", endpoint=api.infer, protocol="v2", inference=True),
        ]
    return (*fixed, *of_model)


class OpenInference:
    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    def server(self, request: Request, values: Mapping[str, str]) -> Response:
        return json_response({"name": SERVER_NAME, "version": SERVER_VERSION, "extensions": EXTENSIONS})

    def live(self, request: Request, values: Mapping[str, str]) -> Response:
        return Response()

    def ready(self, request: Request, values: Mapping[str, str]) -> Response:
        if self._inference.phase is not Phase.READY:
            raise NotReady(f"the server is {self._inference.phase.value}")
        return Response()

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
        self._find(values)
        if not self._inference.loaded:
            raise NotReady(f"model {self._inference.model!r} is not ready: it is still loading")
        return json_response({"name": self._inference.model, "ready": True})

    async def infer(self, request: Request, values: Mapping[str, str]) -> Response:
        self._find(values)
        signature = self._inference.signature
        header, tail = binary.split(request)
        content = document(header)
        arrays = decode(signature, content, tail)
        asked = outputs_asked(signature, content)
        rows = await self._inference.infer(arrays)
        answer: dict[str, Any] = {"model_name": self._inference.model, "model_version": self._inference.version}
        if "id" in content:
            answer["id"] = content["id"]
        return encode(answer, rows, asked)

    def _find(self, values: Mapping[str, str]) -> None:
        self._inference.find(values["model"], values.get("version"))


def _described(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def decode(signature: Signature, content: dict[str, Any], tail: memoryview) -> dict[str, Array]:
    """The request's tensors by name; `tail` is what follows the JSON header."""
    inputs = content.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise BadRequest('expected "inputs" to be a list of tensors')
    tensors = {tensor.name: tensor for tensor in signature.inputs}
    raw = binary.Tail(tail)
    arrays: dict[str, Array] = {}
    for i, given in enumerate(inputs):
        name = given.get("name") if isinstance(given, dict) else None
        if not isinstance(name, str) or name not in tensors:
            raise BadRequest(f"inputs[{i}]: {name!r} is not one of the model's inputs: {', '.join(tensors)}")
        if name in arrays:
            raise BadRequest(f"input {name!r} is given twice")
        arrays[name] = _array(tensors[name], given, raw)
    raw.finish()
    return arrays


def _array(tensor: Tensor, given: dict[str, Any], raw: binary.Tail) -> Array:
    if given.get("datatype") != tensor.datatype:
        raise BadRequest(f"input {tensor.name!r}: datatype {given.get('datatype')!r} given, the model needs {tensor.datatype}")
    shape = given.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise BadRequest(f"input {tensor.name!r}: shape {shape!r} must be a list of sizes, like {list(tensor.shape)}")
    check_shape(tensor, shape)
    size = binary.size_of(given)
    if size is not None:
        return raw.take(tensor, size, shape)
    if "data" not in given:
        raise BadRequest(f'input {tensor.name!r} has neither "data" nor the parameter "binary_data_size"')
    array = from_json(tensor, given["data"])
    if array.size != math.prod(shape):
        raise BadRequest(f"input {tensor.name!r}: {array.size} values given, shape {shape} holds {math.prod(shape)}")
    return array.reshape(shape)


def outputs_asked(signature: Signature, content: dict[str, Any]) -> list[tuple[Tensor, bool]]:
    """The outputs to answer with, and whether each goes as raw bytes."""
    parameters = _parameters(content)
    default = parameters.get("binary_data_output") is True
    tensors = {tensor.name: tensor for tensor in signature.outputs}
    wanted = content.get("outputs")
    if not wanted:
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
        asked.append((tensors[name], own.get("binary_data", default) is True))
    return asked


def _parameters(holder: dict[str, Any]) -> dict[str, Any]:
    parameters = holder.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise BadRequest('expected "parameters" to be an object')
    return parameters


def encode(answer: dict[str, Any], rows: Rows, asked: list[tuple[Tensor, bool]]) -> Response:
    tensors, tail = [], []
    for tensor, as_bytes in asked:
        array = np.ascontiguousarray(rows.arrays[tensor.name], dtype=NUMPY[tensor.datatype])
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(array.shape)}
        if as_bytes:
            entry["parameters"] = {"binary_data_size": array.nbytes}
            tail.append(array.reshape(-1).view(np.uint8).data)
        else:
            entry["data"] = numbers(array, tensor.datatype).reshape(-1)
        tensors.append(entry)
    answer["outputs"] = tensors
    header = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return binary.response(header, tail) if tail else Response(body=(header,))
