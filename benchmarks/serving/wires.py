"""How a row travels to each kind of server and how its answer is read; a request is prepared as bytes, head and all."""

import base64
import enum
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
HEADER_LENGTH = "Inference-Header-Content-Length"
_DATATYPES = {"float32": "FP32", "int64": "INT64"}


_BYTES = {"datatype": "BYTES", "shape": [1], "parameters": {"content_type": "base64"}}


class Wire(enum.Enum):
    V2_JSON = "Open Inference Protocol, JSON"
    V2_BINARY = "Open Inference Protocol, binary tensors"
    V2_BASE64 = "Open Inference Protocol, JSON with one BYTES element of base64 a row"
    NUMBERS = "JSON, a list of numbers a row: for models with one input"
    BASE64 = "JSON, base64 of all the tensors' bytes a row"
    RAW = "the tensors' bytes as they are"


def request(wire: Wire, path: str, row: Mapping[str, Array]) -> bytes:
    """The whole HTTP/1.1 request."""
    headers, body = _encoded(wire, row)
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join((*lines, "\r\n")).encode() + body


def _encoded(wire: Wire, row: Mapping[str, Array]) -> tuple[dict[str, str], bytes]:
    match wire:
        case Wire.V2_JSON:
            tensors = [{**_described(name, array), "data": _numbers(array)} for name, array in row.items()]
            return _json({"inputs": tensors})
        case Wire.V2_BINARY:
            return _binary(row)
        case Wire.V2_BASE64:
            content = [{**_BYTES, "name": name, "data": [_base64(array.tobytes())]} for name, array in row.items()]
            return _json({"inputs": content})
        case Wire.NUMBERS:
            return _json({"rows": [_numbers(array) for array in row.values()]})
        case Wire.BASE64:
            return _json({"rows": [_base64(_raw(row))]})
        case Wire.RAW:
            return {"Content-Type": "application/octet-stream"}, _raw(row)


def _json(content: Any) -> tuple[dict[str, str], bytes]:
    return {"Content-Type": "application/json"}, json.dumps(content, separators=(",", ":")).encode()


def _binary(row: Mapping[str, Array]) -> tuple[dict[str, str], bytes]:
    tensors = [{**_described(n, array), "parameters": {"binary_data_size": array.nbytes}} for n, array in row.items()]
    _, header = _json({"inputs": tensors, "parameters": {"binary_data_output": True}})
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(header))}
    return headers, header + _raw(row)


def _described(name: str, array: Array) -> dict[str, Any]:
    return {"name": name, "datatype": _DATATYPES[array.dtype.name], "shape": list(array.shape)}


def _numbers(array: Array) -> list[Any]:
    # The shortest text that is still this float32, as clients that send float32 write it.
    return [float(str(value)) if array.dtype.kind == "f" else int(value) for value in array.reshape(-1)]


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _raw(row: Mapping[str, Array]) -> bytes:
    return b"".join(array.tobytes() for array in row.values())


def answer(wire: Wire, content: bytes, headers: Mapping[str, str]) -> NDArray[np.float32]:
    """The model's output, flat. `headers` has lower-case names."""
    length = headers.get(HEADER_LENGTH.lower())
    if wire is Wire.V2_BINARY and length is not None:
        return np.frombuffer(content[int(length) :], dtype=np.float32)
    if wire is Wire.RAW:
        return np.frombuffer(content, dtype=np.float32)
    return _flat(json.loads(content))


def _flat(content: Any) -> NDArray[np.float32]:
    """Numbers or base64, wherever a server of this comparison puts them."""
    while True:
        if isinstance(content, dict):
            content = next(content[name] for name in ("outputs", "data", "rows") if name in content)
        elif isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict | list | str):
            content = content[0]
        else:
            break
    if isinstance(content, str):
        return np.frombuffer(base64.b64decode(content), dtype=np.float32)
    return np.asarray(content, dtype=np.float32).reshape(-1)
