"""What servers and models say about themselves."""

from dataclasses import dataclass
from typing import Any

import orjson

from modelmill.client.errors import BadAnswer


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorMetadata:
    name: str
    datatype: str
    """BOOL, INT64, FP32, BF16, BYTES, ..."""
    shape: tuple[int, ...]
    """-1 is a free dimension."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMetadata:
    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerMetadata:
    name: str
    version: str
    extensions: tuple[str, ...]


def model(body: bytes) -> ModelMetadata:
    content = _object(body)
    try:
        return ModelMetadata(
            name=str(content["name"]),
            versions=tuple(str(version) for version in content.get("versions") or ()),
            platform=str(content.get("platform") or ""),
            inputs=tuple(_tensor(tensor) for tensor in content["inputs"]),
            outputs=tuple(_tensor(tensor) for tensor in content["outputs"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadAnswer(f"the answer is not a model's metadata: {error!r} in {body[:200]!r}") from error


def server(body: bytes) -> ServerMetadata:
    content = _object(body)
    return ServerMetadata(
        name=str(content.get("name") or ""),
        version=str(content.get("version") or ""),
        extensions=tuple(str(extension) for extension in content.get("extensions") or ()),
    )


def _tensor(content: Any) -> TensorMetadata:
    shape = tuple(int(size) for size in content["shape"])
    return TensorMetadata(name=str(content["name"]), datatype=str(content["datatype"]), shape=shape)


def _object(body: bytes) -> dict[str, Any]:
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadAnswer(f"the answer is not JSON: {body[:200]!r}") from error
    if not isinstance(content, dict):
        raise BadAnswer(f"the answer is not a JSON object: {body[:200]!r}")
    return content
