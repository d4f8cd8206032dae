"""OpenAI's `POST /v1/embeddings` for encoders, as its clients speak it (API reference, "Create embeddings").

An encoder is a model whose first input is lists of token ids, [N, L] with `pad` in the signature, and whose first output
is a vector a row, [N, D]. A second input of that shape is the attention mask: 1 for each token, `pad` beyond the row's end.
Inputs are token ids, one list or several of any lengths; text is refused, because a version holds no tokenizer yet.
"""

import base64
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from modelmill.datatypes import FLOATS, NUMPY, Array, numbers
from modelmill.serve.errors import BadRequest
from modelmill.serve.http import Request, Response, json_response
from modelmill.serve.inference import Ask, Inference
from modelmill.serve.protocols.v1 import document
from modelmill.serve.router import OPENAI, Route
from modelmill.serve.rows import Rows
from modelmill.serve.shapes import padded
from modelmill.signature import Signature, Tensor

INTEGERS = ("INT32", "INT64")
FORMATS = ("float", "base64")
KNOWN = frozenset({"model", "input", "encoding_format", "dimensions", "user"})


PATH = "/v1/embeddings"


def routes(inference: Inference) -> tuple[Route, ...]:
    return (Route(method="POST", path=PATH, endpoint=partial(create, inference), protocol=OPENAI),)


def create(inference: Inference, request: Request, values: Mapping[str, str]) -> Ask:
    content = document(request.body)
    model = content.get("model")
    if not isinstance(model, str):
        raise BadRequest(f'expected "model" to be the model\'s name, {inference.model!r} here, got {model!r:.40}')
    inference.require(model)
    if unknown := content.keys() - KNOWN:
        raise BadRequest(f"the field {min(unknown)!r} is not one of {', '.join(sorted(KNOWN))}")
    signature = inference.signature
    if not is_encoder(signature):
        raise BadRequest(
            "this model is no encoder: embeddings need one input of token ids [-1, -1] with pad in the signature, "
            "at most an attention mask besides, and a vector a row as first output"
        )
    kind = content.get("encoding_format", "float")
    if kind not in FORMATS:
        raise BadRequest(f'"encoding_format" {kind!r:.40} is not one of {", ".join(FORMATS)}')
    output = signature.outputs[0]
    size = output.shape[1]
    if (dimensions := content.get("dimensions")) not in (None, size):
        raise BadRequest(f'"dimensions" {dimensions!r:.40} cannot be had: this model\'s vectors have {size} numbers')
    tokens = _tokens(signature.inputs[0], content.get("input"))
    arrays = {signature.inputs[0].name: padded([row[None] for row in tokens], value=signature.inputs[0].pad or 0)}
    for mask in signature.inputs[1:]:
        ones = [np.ones((1, len(row)), NUMPY[mask.datatype]) for row in tokens]
        arrays[mask.name] = padded(ones, value=mask.pad or 0)
    used = sum(len(row) for row in tokens)
    return Ask(inference.rows(arrays), partial(_answer, model=model, output=output, as_text=kind == "base64", tokens=used))


def is_encoder(signature: Signature) -> bool:
    inputs, output = signature.inputs, signature.outputs[0]
    ragged = all(t.datatype in INTEGERS and t.shape == (-1, -1) and t.pad is not None for t in inputs)
    return ragged and len(inputs) <= 2 and output.datatype in FLOATS and len(output.shape) == 2


def _tokens(tensor: Tensor, given: Any) -> Sequence[Array]:
    """One array of token ids a row."""
    if isinstance(given, str) or (isinstance(given, list) and given and isinstance(given[0], str)):
        raise BadRequest('"input" is text, and this model has no tokenizer: send token ids, a list of numbers for each text')
    if not isinstance(given, list) or not given:
        raise BadRequest(f'expected "input" to be a list of token ids, or a list of such lists, got {given!r:.40}')
    rows = given if isinstance(given[0], list) else [given]
    bounds = np.iinfo(NUMPY[tensor.datatype])
    for i, row in enumerate(rows):
        if not isinstance(row, list) or not row or {type(token) for token in row} != {int}:
            raise BadRequest(f'"input", row {i}: expected at least one token id, and only whole numbers, got {row!r:.60}')
        if not bounds.min <= min(row) <= max(row) <= bounds.max:
            raise BadRequest(f'"input", row {i}: a token id does not fit {tensor.datatype}')
    return [np.array(row, NUMPY[tensor.datatype]) for row in rows]


def _answer(rows: Rows, *, model: str, output: Tensor, as_text: bool, tokens: int) -> Response:
    vectors = np.ascontiguousarray(numbers(rows.arrays[output.name], output.datatype), dtype=np.float32)
    data = [
        {
            "object": "embedding",
            "index": i,
            "embedding": base64.b64encode(vector.tobytes()).decode() if as_text else vector,
        }
        for i, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_response({"object": "list", "data": data, "model": model, "usage": usage})
