"""`GET /openapi.json`: the routes that exist, as an OpenAPI 3.1 document with the bodies that this model takes.

Every route needs an entry in `OPERATIONS`; what it may be answered with besides 200 follows from what it is.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelmill.serve.frontdoor import OPEN_PATHS
from modelmill.serve.http import JSON, Request, Response, json_response
from modelmill.serve.inference import Inference
from modelmill.serve.protocols.embeddings import PATH as EMBEDDINGS
from modelmill.serve.protocols.embeddings import is_encoder
from modelmill.serve.protocols.schemas import Schema, of_bodies
from modelmill.serve.router import Route

BINARY = "application/octet-stream"
RAW_TENSORS = (
    f"As {BINARY}, JSON is followed by raw tensors, and the header Inference-Header-Content-Length has its length in bytes. "
    "A tensor that comes raw has, instead of data, its length as the parameter binary_data_size."
)
HEADER_LENGTH = {"description": "bytes of the JSON, behind which the raw tensors follow", "schema": {"type": "integer"}}
RETRY_AFTER = {"description": "seconds after which it is worth to try again", "schema": {"type": "integer"}}
ALLOW = {"description": "the methods of this path", "schema": {"type": "string"}}
SCHEME = {"description": "Bearer", "schema": {"type": "string"}}
CODINGS = {"description": "what the server can decompress", "schema": {"type": "string"}}
REFUSALS: dict[int, tuple[str, dict[str, Schema]]] = {
    400: ("not what the protocol, the model or HTTP allows; the sentence names the field, its value and what was expected", {}),
    401: ("no API key, or a wrong one", {"WWW-Authenticate": SCHEME}),
    404: ("this pod has no such model or version", {}),
    405: ("another method is needed", {"Allow": ALLOW}),
    408: ("the request arrives too slowly", {}),
    413: ("the body is too large, as it is or once decompressed", {}),
    415: ("the body is compressed in a way that the server does not know", {"Accept-Encoding": CODINGS}),
    431: ("the request's head is too large", {}),
    500: ("the model failed on this input", {}),
    503: ("not ready, or too many requests wait", {"Retry-After": RETRY_AFTER}),
    504: ("no answer within the time limit", {}),
}
SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
OBJECT = {"type": "object"}
FREE = "Object"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    summary: str
    answer: str = FREE
    """The schema of a 200's body."""
    body: str | None = None
    """The schema of the request's body."""
    binary: bool = False
    """Request and answer may be raw tensors behind JSON."""
    body_required: bool = True
    succeeds: bool = True
    """False where there is no 200."""
    also: tuple[int, ...] = ()
    """Refusals besides those that its path and method bring."""


MODEL = (500, 503, 504)
LOADING = (503,)
OPERATIONS = {
    "GET /": Operation(summary="Is the server alive?"),
    "GET /openapi.json": Operation(summary="This document", also=LOADING),
    "GET /v1/models": Operation(summary="The model's name"),
    "GET /v1/models/{model}": Operation(summary="Is the model ready?", also=LOADING),
    "POST /v1/models/{model}:predict": Operation(
        summary="Predictions in KServe's V1 protocol", body="PredictRequest", answer="PredictAnswer", also=MODEL
    ),
    "POST /v1/embeddings": Operation(
        summary="Vectors in OpenAI's protocol, of models that are encoders",
        body="EmbeddingRequest",
        answer="EmbeddingAnswer",
        also=(404, *MODEL),
    ),
    "GET /v2": Operation(summary="The server and its extensions"),
    "GET /v2/health/live": Operation(summary="Is the server alive?"),
    "GET /v2/health/ready": Operation(summary="Is the model ready?", also=LOADING),
    "GET /v2/models": Operation(summary="The model's name"),
    "GET /v2/models/stats": Operation(summary="Counts and times since the pod's start", also=LOADING),
    "GET /v2/models/{model}": Operation(summary="The model's tensors", also=LOADING),
    "GET /v2/models/{model}/ready": Operation(summary="Is the model ready?", also=LOADING),
    "GET /v2/models/{model}/config": Operation(summary="The model's configuration, as Triton words it", also=LOADING),
    "GET /v2/models/{model}/stats": Operation(summary="Counts and times since the pod's start", also=LOADING),
    "POST /v2/models/{model}/infer": Operation(
        summary="Inference in the Open Inference Protocol", body="InferRequest", answer="InferAnswer", binary=True, also=MODEL
    ),
    "POST /v2/repository/index": Operation(
        summary="The models of this server", body="IndexRequest", body_required=False, answer="Index"
    ),
    "POST /v2/repository/models/{model}/load": Operation(
        summary="Nothing happens: the model is loaded", body="LoadRequest", body_required=False, also=LOADING
    ),
    "POST /v2/repository/models/{model}/unload": Operation(summary="Always refused: a pod keeps its version", succeeds=False),
}
"""By method and path, without the version in it."""


def documented(routes: tuple[Route, ...], *, inference: Inference, keys: bool) -> tuple[Route, ...]:
    """The routes and one more, which describes them all; `keys` tells whether an API key is needed."""
    api = OpenApi(routes, inference=inference, keys=keys)
    return api.routes


class OpenApi:
    def __init__(self, routes: tuple[Route, ...], *, inference: Inference, keys: bool) -> None:
        self.routes = (*routes, Route(method="GET", path="/openapi.json", endpoint=self.document))
        self._inference = inference
        self._keys = keys

    def document(self, request: Request, values: Mapping[str, str]) -> Response:
        inference = self._inference
        paths: dict[str, dict[str, Any]] = {}
        schemas = {**of_bodies(inference.signature), **REPOSITORY, FREE: OBJECT}
        encoder = is_encoder(inference.signature)
        for route in (route for route in self.routes if encoder or route.path != EMBEDDINGS):
            paths.setdefault(route.path, {})[route.method.lower()] = self._operation(route)
        content = {
            "openapi": "3.1.0",
            "info": {"title": f"Model {inference.model}", "version": inference.version},
            "paths": paths,
            "components": {
                "schemas": schemas,
                "responses": {str(status): _refusal(status) for status in REFUSALS},
                **({"securitySchemes": SECURITY} if self._keys else {}),
            },
        }
        return json_response(content)

    def _operation(self, route: Route) -> dict[str, Any]:
        operation = OPERATIONS[f"{route.method} {route.path.replace('/versions/{version}', '')}"]
        keys = self._keys and route.path not in OPEN_PATHS
        statuses = {400, 405, 431, *operation.also}
        statuses |= {401} if keys else set()
        statuses |= {404} if "{" in route.path else set()
        statuses |= {408, 413, 415} if route.method == "POST" else set()
        described: dict[str, Any] = {
            "operationId": "-".join(re.findall(r"\w+", f"{route.method.lower()} {route.path}")),
            "summary": operation.summary,
            "responses": {str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted(statuses)},
        }
        if operation.binary:
            described["description"] = RAW_TENSORS
        if operation.succeeds:
            described["responses"] = {"200": _answer(operation), **described["responses"]}
        if names := re.findall(r"\{(\w+)\}", route.path):
            described["parameters"] = [self._parameter(name) for name in names]
        if operation.body:
            described["requestBody"] = {"required": operation.body_required, "content": _content(operation.body, operation)}
        if keys:
            described["security"] = [{name: []} for name in SECURITY]
        return described

    def _parameter(self, name: str) -> dict[str, Any]:
        only = {"model": self._inference.model, "version": self._inference.version}[name]
        return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "enum": [only]}}


REPOSITORY: dict[str, Schema] = {
    "IndexRequest": {"type": "object", "properties": {"ready": {"type": "boolean"}}},
    "LoadRequest": {"type": "object", "properties": {"parameters": {"type": "object", "maxProperties": 0}}},
    "Index": {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["name", "version", "state", "reason"],
            "properties": {name: {"type": "string"} for name in ("name", "version", "state", "reason")},
        },
    },
}


def _content(schema: str, operation: Operation) -> dict[str, Any]:
    content: dict[str, Any] = {JSON: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return content | {BINARY: {}} if operation.binary else content


def _answer(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {"description": "the answer", "content": _content(operation.answer, operation)}
    return described | {"headers": {"Inference-Header-Content-Length": HEADER_LENGTH}} if operation.binary else described


def _refusal(status: int) -> dict[str, Any]:
    description, headers = REFUSALS[status]
    content = {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {"description": description, "content": content, **({"headers": headers} if headers else {})}
