"""The Open Inference Protocol v2 in bytes: pure functions, no network. Both clients and `modelmill bench` use them.

A request is a JSON document that names its tensors; their data is JSON, or with the binary tensor extension raw bytes
behind the document: little-endian, row-major, in the order of the inputs.

BF16: numpy has no such dtype. An array of floats for an input that the model declares as BF16 is rounded to the nearest
(ties to even) and sent as BF16; arrays of the package ml_dtypes are sent as they are; BF16 outputs come back as float32,
which holds every one of them exactly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from modelmill.client.errors import BadAnswer
from modelmill.datatypes import NUMPY, Array, from_bf16, name_of, objects, packed, to_bf16, unpacked

HEADER_LENGTH = "Inference-Header-Content-Length"
BINARY_EXTENSION = "binary_tensor_data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    body: bytes
    headers: dict[str, str]


def encode(
    inputs: Mapping[str, Array],
    *,
    declared: Mapping[str, str],
    outputs: Sequence[str] | None,
    binary: bool,
    parameters: Mapping[str, int],
) -> Encoded:
    """A request for /infer. `declared` are the model's datatypes by input, as far as they are known.

    Raises ValueError or TypeError, naming the input, for what the protocol cannot carry.
    """
    if not inputs:
        raise ValueError("inputs is empty: give the model's inputs by name, as in {'x': numpy.zeros((1, 3), numpy.float32)}")
    tensors, tail = [], []
    for name, array in inputs.items():
        datatype, plain = _typed(name, array, declared.get(name))
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(array.shape)}
        if binary:
            raw = _raw(name, plain)
            tensor["parameters"] = {"binary_data_size": len(raw)}
            tail.append(raw)
        else:
            tensor["data"] = _json(name, plain, datatype)
        tensors.append(tensor)
    document: dict[str, Any] = {"inputs": tensors}
    if outputs is not None:
        # Each output says it for itself: servers differ in whether the request's parameter counts beside a list.
        document["outputs"] = [{"name": name, **({"parameters": {"binary_data": True}} if binary else {})} for name in outputs]
    given = {**parameters, **({"binary_data_output": True} if binary else {})}
    if given:
        document["parameters"] = given
    header = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if not binary:
        return Encoded(body=header, headers={"Content-Type": "application/json"})
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(header))}
    return Encoded(body=b"".join((header, *tail)), headers=headers)


def _typed(name: str, array: Array, declared: str | None) -> tuple[str, Array]:
    """The datatype on the wire, and the array in that datatype's numpy form."""
    if not isinstance(array, np.ndarray):
        raise TypeError(
            f"input {name!r} is {type(array).__name__}, not a numpy array: use numpy.asarray(..., dtype=...) with the dtype "
            f"that the model declares"
        )
    datatype = name_of(array.dtype)
    if datatype is None:
        raise TypeError(f"input {name!r}: no datatype of the protocol is {array.dtype}; convert it with astype")
    if datatype == "BYTES":
        return datatype, array
    if datatype == "BF16":
        return datatype, np.ascontiguousarray(array).view(np.uint16)
    if declared == "BF16" and array.dtype.kind == "f":
        return "BF16", to_bf16(array)
    return datatype, np.ascontiguousarray(array, dtype=NUMPY[datatype])


def _raw(name: str, array: Array) -> bytes | memoryview:
    if array.dtype.kind not in "OSU":
        return array.reshape(-1).view(np.uint8).data
    return packed(_elements(name, array))


def _json(name: str, array: Array, datatype: str) -> Any:
    if datatype == "BYTES":
        try:
            return [element.decode() for element in _elements(name, array)]
        except UnicodeDecodeError as error:
            raise ValueError(
                f"input {name!r} has bytes that are not UTF-8, which JSON cannot carry: the server needs {BINARY_EXTENSION}"
            ) from error
    values = from_bf16(array) if datatype == "BF16" else array
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError(f"input {name!r} has NaN or infinity, which JSON cannot carry: the server needs {BINARY_EXTENSION}")
    return values.reshape(-1)


def _elements(name: str, array: Array) -> list[bytes]:
    elements = [element.encode() if isinstance(element, str) else element for element in array.reshape(-1).tolist()]
    for element in elements:
        if not isinstance(element, bytes):
            raise TypeError(f"input {name!r}: a BYTES tensor holds str and bytes, not {type(element).__name__}")
    return elements


def decode(body: bytes, *, header_length: str | None) -> dict[str, Array]:
    """The outputs by name, as arrays of their own: writable, and not views of the answer.

    BYTES become dtype object with `bytes` elements. Raises BadAnswer.
    """
    try:
        length = len(body) if header_length is None else int(header_length)
        document = orjson.loads(memoryview(body)[:length])
        tail, outputs = memoryview(body)[length:], {}
        for output in document["outputs"]:
            shape = [int(size) for size in output["shape"]]
            size = (output.get("parameters") or {}).get("binary_data_size")
            if size is None:
                array = _from_json(output["data"], output["datatype"], shape)
            else:
                array, tail = _from_raw(tail[:size], output["datatype"], shape), tail[size:]
            outputs[str(output["name"])] = array
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise BadAnswer(f"the answer is not the Open Inference Protocol's: {error!r} in {body[:200]!r}") from error
    return outputs


def _from_raw(raw: memoryview, datatype: str, shape: list[int]) -> Array:
    if datatype == "BYTES":
        return objects(unpacked(raw), shape)
    array: Array = np.frombuffer(raw, dtype=NUMPY[datatype]).reshape(shape)
    return from_bf16(array) if datatype == "BF16" else array.copy()


def _from_json(data: Any, datatype: str, shape: list[int]) -> Array:
    if datatype == "BYTES":
        flat = np.asarray(data, dtype=object).reshape(-1)
        return objects([element.encode() for element in flat.tolist()], shape)
    # JSON has numbers, not BF16's bits; null is how servers write NaN.
    array: Array = np.asarray(data, dtype=np.float32 if datatype == "BF16" else NUMPY[datatype])
    return array.reshape(shape)
