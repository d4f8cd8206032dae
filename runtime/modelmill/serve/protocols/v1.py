"""KServe's V1 protocol: `POST /v1/models/NAME:predict {"instances": [...]}` -> `{"predictions": [...]}`.

`instances` is a list of rows; a model with several inputs takes objects by input name. `inputs` is the same turned on
its side: whole columns, by input name, or the one input's column itself. Predictions are rows: plain for one output,
objects by output name for several.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from modelmill.datatypes import Array
from modelmill.serve.errors import BadRequest
from modelmill.serve.http import Bytes, Request, Response, json_response
from modelmill.serve.inference import Ask, Inference
from modelmill.serve.router import Route
from modelmill.serve.rows import Rows, as_json, from_json
from modelmill.signature import Signature


def routes(inference: Inference) -> tuple[Route, ...]:
    api = V1(inference)
    return (
        Route(method="GET", path="/v1/models", endpoint=api.models),
        Route(method="GET", path="/v1/models/{model}", endpoint=api.model),
        Route(method="POST", path="/v1/models/{model}:predict", endpoint=api.predict, protocol="v1"),
    )


class V1:
    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    def models(self, request: Request, values: Mapping[str, str]) -> Response:
        model = self._inference.model
        # KServe's answer and OpenAI's in one.
        entry = {"id": model, "object": "model", "created": 0, "owned_by": "modelmill"}
        return json_response({"models": [model], "object": "list", "data": [entry]})

    def model(self, request: Request, values: Mapping[str, str]) -> Response:
        self._inference.require(values["model"])
        return json_response({"name": values["model"], "ready": True})

    def predict(self, request: Request, values: Mapping[str, str]) -> Ask:
        self._inference.require(values["model"])
        signature = self._inference.signature
        arrays = decode(signature, request.body)
        rows = self._inference.rows(arrays)
        return Ask(rows, lambda outputs: json_response({"predictions": predictions(signature, outputs)}))


def document(body: Bytes) -> dict[str, Any]:
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise BadRequest(f"the body must be a JSON object, not {type(parsed).__name__}")
    return parsed


def decode(signature: Signature, body: Bytes) -> dict[str, Array]:
    content, text = document(body), bytes(body)
    booleans = b"true" in text or b"false" in text
    if ("instances" in content) == ("inputs" in content):
        raise BadRequest('the body must have either "instances" (rows) or "inputs" (columns)')
    columns = _by_rows(signature, content["instances"]) if "instances" in content else _by_columns(signature, content["inputs"])
    tensors = {tensor.name: tensor for tensor in signature.inputs}
    return {name: from_json(tensors[name], column, booleans=booleans) for name, column in columns.items()}


def _by_rows(signature: Signature, instances: Any) -> dict[str, list[Any]]:
    if not isinstance(instances, list):
        raise BadRequest(f'expected "instances" to be a list, got {type(instances).__name__}')
    names = [tensor.name for tensor in signature.inputs]
    if len(names) == 1 and not (instances and isinstance(instances[0], dict)):
        return {names[0]: instances}
    for i, instance in enumerate(instances):
        if not isinstance(instance, dict) or set(instance) != set(names):
            raise BadRequest(f"instances[{i}]: expected an object with the model's inputs: {', '.join(names)}")
    return {name: [instance[name] for instance in instances] for name in names}


def _by_columns(signature: Signature, inputs: Any) -> dict[str, Any]:
    names = [tensor.name for tensor in signature.inputs]
    if isinstance(inputs, list) and len(names) == 1:
        return {names[0]: inputs}
    if not isinstance(inputs, dict):
        raise BadRequest(f'expected "inputs" to be an object with the model\'s inputs: {", ".join(names)}')
    if unknown := [name for name in inputs if name not in names]:
        raise BadRequest(f"input {unknown[0]!r} is not one of the model's inputs: {', '.join(names)}")
    return inputs


def predictions(signature: Signature, rows: Rows) -> Any:
    columns = {tensor.name: as_json(tensor, rows.arrays[tensor.name]) for tensor in signature.outputs}
    if len(columns) == 1:
        return next(iter(columns.values()))
    return [{name: column[i] for name, column in columns.items()} for i in range(rows.count)]
