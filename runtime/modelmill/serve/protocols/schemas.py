"""JSON Schemas of what is sent to a model and what it answers, from its signature.

Two things a schema cannot say: that all rows of a request have the same length along a free dimension, and that there
are as many values as the shape tells. Numbers of floating point are `null` in answers where they are NaN or infinite,
which JSON has no words for.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from modelmill.datatypes import FLOATS, NUMPY
from modelmill.serve.options import LAST_PRIORITY
from modelmill.serve.protocols.embeddings import takes_texts
from modelmill.signature import Signature, Tensor

Schema = dict[str, Any]
_TOLD_AS_OPENAI_DOES: Schema = {"type": "object", "required": ["message"], "properties": {"message": {"type": "string"}}}
ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"anyOf": [{"type": "string"}, _TOLD_AS_OPENAI_DOES]}},
}
PARAMETERS: Schema = {
    "type": "object",
    "properties": {
        "priority": {
            "type": "integer",
            "minimum": 0,
            "maximum": LAST_PRIORITY,
            "description": "1 goes first; 0 is the default",
        },
        "timeout": {
            "type": "integer",
            "minimum": 0,
            "maximum": 2**63 - 1,
            "description": "microseconds after which no answer is wanted; 0: the server's own limit",
        },
        "binary_data_output": {"type": "boolean", "description": "all outputs as raw bytes behind the JSON"},
    },
}


def of_bodies(signature: Signature) -> dict[str, Schema]:
    """By name: the requests and answers of both protocols."""
    return {
        "PredictRequest": _predict_request(signature.inputs),
        "PredictAnswer": _object(predictions=_list(_rows(signature.outputs, answer=True))),
        "InferRequest": _infer_request(signature),
        "InferAnswer": _infer_answer(signature.outputs),
        "EmbeddingRequest": _embedding_request(signature),
        "EmbeddingAnswer": EMBEDDING_ANSWER,
        "Error": ERROR,
    }


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(items: Schema, **more: int) -> Schema:
    return {"type": "array", "items": items, **more}


def _number(tensor: Tensor, *, answer: bool) -> Schema:
    if tensor.datatype == "BOOL":
        return {"type": "boolean"}
    if tensor.datatype == "BYTES":
        return {"type": "string"}
    if tensor.datatype in FLOATS:
        return {"type": ["number", "null"] if answer else "number"}
    bounds = np.iinfo(NUMPY[tensor.datatype])
    return {"type": "integer", "minimum": int(bounds.min), "maximum": int(bounds.max)}


def _row(tensor: Tensor, *, answer: bool = False) -> Schema:
    """One row as nested lists."""
    schema = _number(tensor, answer=answer)
    for size in reversed(tensor.shape[1:]):
        schema = _list(schema) if size == -1 else _list(schema, minItems=size, maxItems=size)
    return schema


def _by_name(tensors: Iterable[Tensor], *, answer: bool = False) -> Schema:
    return _object(**{tensor.name: _row(tensor, answer=answer) for tensor in tensors}) | {"additionalProperties": False}


def _rows(tensors: tuple[Tensor, ...], *, answer: bool) -> Schema:
    return _row(tensors[0], answer=answer) if len(tensors) == 1 else _by_name(tensors, answer=answer)


# --- V1


def _predict_request(inputs: tuple[Tensor, ...]) -> Schema:
    columns = _object(**{tensor.name: _list(_row(tensor), minItems=1) for tensor in inputs}) | {"additionalProperties": False}
    rows = _list(_by_name(inputs), minItems=1)
    if len(inputs) == 1:
        plain = _list(_row(inputs[0]), minItems=1)
        columns, rows = {"anyOf": [plain, columns]}, {"anyOf": [plain, rows]}
    return {
        "type": "object",
        "properties": {"instances": rows, "inputs": columns},
        "oneOf": [{"required": ["instances"]}, {"required": ["inputs"]}],
    }


# --- Open Inference Protocol


def _infer_request(signature: Signature) -> Schema:
    count = len(signature.inputs)
    inputs = _list({"oneOf": [_input(tensor) for tensor in signature.inputs]}, minItems=count, maxItems=count)
    if count > 1:
        inputs["allOf"] = [{"contains": {"properties": {"name": {"const": t.name}}}} for t in signature.inputs]
    own = {"type": "object", "properties": {"binary_data": {"type": "boolean"}}}
    output = {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"enum": [tensor.name for tensor in signature.outputs]}, "parameters": own},
    }
    return {
        "type": "object",
        "required": ["inputs"],
        "properties": {"id": {"type": "string"}, "parameters": PARAMETERS, "inputs": inputs, "outputs": _list(output)},
    }


def _input(tensor: Tensor) -> Schema:
    sizes = [{"type": "integer", "minimum": 0} if size == -1 else {"const": size} for size in tensor.shape[1:]]
    rank = len(tensor.shape)
    shape = {"type": "array", "prefixItems": [{"type": "integer", "minimum": 1}, *sizes], "minItems": rank, "maxItems": rank}
    data = {
        "type": "array",
        "items": {"anyOf": [_number(tensor, answer=False), {"type": "array"}]},
        "description": "the values in row-major order, flat or nested",
    }
    return _object(name={"const": tensor.name}, datatype={"const": tensor.datatype}, shape=shape, data=data)


def _infer_answer(outputs: tuple[Tensor, ...]) -> Schema:
    tensors = []
    for tensor in outputs:
        rank = len(tensor.shape)
        shape = _list({"type": "integer"}, minItems=rank, maxItems=rank)
        described = _object(name={"const": tensor.name}, datatype={"const": tensor.datatype}, shape=shape)
        described["properties"]["data"] = _list(_number(tensor, answer=True))
        described["properties"]["parameters"] = _object(binary_data_size={"type": "integer"})
        tensors.append(described)
    named = _object(model_name={"type": "string"}, model_version={"type": "string"}, outputs=_list({"oneOf": tensors}))
    named["properties"]["id"] = {"type": "string"}
    return named


# --- OpenAI

_TOKENS = _list({"type": "integer"}, minItems=1)
_TEXT: Schema = {"type": "string"}


def _embedding_request(signature: Signature) -> Schema:
    one = _TEXT if takes_texts(signature) else _TOKENS
    schema = _object(model={"type": "string"}, input={"anyOf": [one, _list(one, minItems=1)]}) | {"additionalProperties": False}
    schema["properties"] |= {
        "encoding_format": {"enum": ["float", "base64"]},
        "dimensions": {"type": "integer"},
        "user": {"type": "string"},
    }
    return schema


_EMBEDDING = _object(
    object={"const": "embedding"},
    index={"type": "integer"},
    embedding={"anyOf": [_list({"anyOf": [{"type": "number"}, {"type": "null"}]}), {"type": "string"}]},
)
EMBEDDING_ANSWER: Schema = _object(
    object={"const": "list"}, data=_list(_EMBEDDING), model={"type": "string"}, usage={"type": "object"}
)
