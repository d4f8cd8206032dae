"""OpenAI's `POST /v1/embeddings` for encoders, as its clients speak it (API reference, "Create embeddings").

An encoder is a model whose first output is a vector a row, [N, D], and whose one input is texts (BYTES, [N] or [N, 1]), where
its recipe makes tokens of them, or whose first input is lists of token ids, [N, L] with `pad` in the signature. A second
input of that shape is the attention mask: 1 for each token, `pad` beyond the row's end. Clients send what the model takes:
texts or lists of token ids, one or several of any lengths.
"""

import base64
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from modelmill.datatypes import FLOATS, NUMPY, Array, numbers, objects
from modelmill.serve.errors import BadRequest
from modelmill.serve.http import Request, Response, json_response
from modelmill.serve.inference import Ask, Inference
from modelmill.serve.protocols.v1 import document
from modelmill.serve.router import OPENAI, Route
from modelmill.serve.rows import TOKENS, Rows
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
            "this model is no encoder: embeddings need one input of texts, or one of token ids [-1, -1] with pad in the "
            "signature and at most an attention mask besides, and a vector a row as first output"
        )
    kind = content.get("encoding_format", "float")
    if kind not in FORMATS:
        raise BadRequest(f'"encoding_format" {kind!r:.40} is not one of {", ".join(FORMATS)}')
    output = signature.outputs[0]
    size = output.shape[1]
    if (dimensions := content.get("dimensions")) not in (None, size):
        raise BadRequest(f'"dimensions" {dimensions!r:.40} cannot be had: this model\'s vectors have {size} numbers')
    arrays, used = (_of_texts if takes_texts(signature) else _of_tokens)(signature, content.get("input"))
    return Ask(inference.rows(arrays), partial(_answer, model=model, output=output, as_text=kind == "base64", tokens=used))


def _of_tokens(signature: Signature, given: Any) -> tuple[dict[str, Array], int | None]:
    """The inputs, and the number of tokens."""
    tokens = _tokens(signature.inputs[0], given)
    arrays = {signature.inputs[0].name: padded([row[None] for row in tokens], value=signature.inputs[0].pad or 0)}
    for mask in signature.inputs[1:]:
        ones = [np.ones((1, len(row)), NUMPY[mask.datatype]) for row in tokens]
        arrays[mask.name] = padded(ones, value=mask.pad or 0)
    return arrays, sum(len(row) for row in tokens)


def _of_texts(signature: Signature, given: Any) -> tuple[dict[str, Array], int | None]:
    """Only whoever makes the tokens knows how many there are."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or {type(text) for text in texts} != {str}:
        raise BadRequest(f'expected "input" to be a text or a list of texts, which this model takes, got {given!r:.60}')
    tensor = signature.inputs[0]
    return {tensor.name: objects([text.encode() for text in texts], [len(texts)] + [1] * (len(tensor.shape) - 1))}, None


def is_encoder(signature: Signature) -> bool:
    inputs, output = signature.inputs, signature.outputs[0]
    if output.datatype not in FLOATS or len(output.shape) != 2:
        return False
    ragged = all(t.datatype in INTEGERS and t.shape == (-1, -1) and t.pad is not None for t in inputs)
    return takes_texts(signature) or (ragged and len(inputs) <= 2)


def takes_texts(signature: Signature) -> bool:
    return (
        len(signature.inputs) == 1 and signature.inputs[0].datatype == "BYTES" and signature.inputs[0].shape in ((-1,), (-1, 1))
    )


def _tokens(tensor: Tensor, given: Any) -> Sequence[Array]:
    """One array of token ids a row."""
    if isinstance(given, str) or (isinstance(given, list) and given and isinstance(given[0], str)):
        raise BadRequest('"input" is text, and this model takes token ids: send a list of numbers for each text')
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


def _answer(rows: Rows, *, model: str, output: Tensor, as_text: bool, tokens: int | None) -> Response:
    if tokens is None:
        tokens = int(rows.arrays[TOKENS].sum()) if TOKENS in rows.arrays else 0
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
