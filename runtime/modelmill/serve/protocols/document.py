"""A request's JSON body, read by simdjson: a tensor's numbers become one buffer, never a list of Python objects.

What is returned is a view of the parser's memory, and a parser has one document at a time: whoever decodes takes what
is needed and keeps no reference (the parser itself refuses to go on while there is one).
"""

from typing import Any, Literal

import numpy as np
import simdjson

from modelmill.datatypes import FLOATS, NUMPY, Array, to_bf16
from modelmill.serve.errors import BadRequest
from modelmill.serve.http import Bytes
from modelmill.serve.rows import from_json
from modelmill.signature import Tensor

BUFFER_TYPES: dict[str, Literal["i", "u", "d"]] = {"i": "i", "u": "u", "f": "d"}
"""simdjson's names of 64-bit integers, unsigned ones and doubles, by numpy's kind."""
_parser = simdjson.Parser()


def document(body: Bytes) -> dict[str, Any]:
    """The body's members; lists and objects among them are views."""
    try:
        parsed = _parse(body)
    except (ValueError, RuntimeError) as error:
        # RuntimeError: numbers beyond 64 bits.
        raise BadRequest(f"the body is not JSON, or not as it can be read here: {error}") from error
    if not isinstance(parsed, simdjson.Object):
        raise BadRequest(f"the body must be a JSON object, not {_kind(parsed)}")
    return members(parsed)


def members(view: simdjson.Object) -> dict[str, Any]:
    """All at once: asking a view for a member that is not there costs a C++ exception, 3-12 us."""
    # Not items(): those are Python objects all the way down.
    try:
        return {key: view[key] for key in view}
    except KeyError:
        # Names that are no proper text cannot be asked for; none of ours is among them.
        return {key: view[key] for key in view if key in view}


def _parse(body: Bytes) -> Any:
    global _parser
    try:
        return _parser.parse(body)
    except RuntimeError:
        # An exception's traceback still holds the last document.
        _parser = simdjson.Parser()
        return _parser.parse(body)


def plain(value: Any) -> Any:
    """The value as Python objects: for what is small."""
    if isinstance(value, simdjson.Object):
        return value.as_dict()
    return value.as_list() if isinstance(value, simdjson.Array) else value


def numbers_of(tensor: Tensor, data: Any) -> Array:
    """The tensor's values, flat: its shape is told apart from them, and nesting is the client's taste."""
    if isinstance(data, simdjson.Array) and tensor.datatype not in ("BOOL", "BYTES"):
        try:
            return _buffer(tensor, data)
        except (TypeError, ValueError):
            # Not all are numbers of that kind: the slow way knows how to say which.
            pass
    return from_json(tensor, plain(data)).reshape(-1)


def _buffer(tensor: Tensor, data: simdjson.Array) -> Array:
    kind = "f" if tensor.datatype in FLOATS else NUMPY[tensor.datatype].kind
    raw: Array = np.frombuffer(data.as_buffer(of_type=BUFFER_TYPES[kind]), dtype=f"<{kind}8")
    if tensor.datatype == "BF16":
        return to_bf16(raw)
    target = NUMPY[tensor.datatype]
    if kind != "f" and target.itemsize < 8 and raw.size:
        bounds = np.iinfo(target)
        if raw.min() < bounds.min or raw.max() > bounds.max:
            raise ValueError
    with np.errstate(over="ignore"):
        return raw.astype(target)


def _kind(value: Any) -> str:
    if isinstance(value, simdjson.Array):
        return "a list"
    return "null" if value is None else type(value).__name__
