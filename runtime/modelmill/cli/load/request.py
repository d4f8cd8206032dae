"""The bytes of the HTTP request in each protocol."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import orjson

from modelmill.client import codec
from modelmill.datatypes import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    form: str
    """The protocol in words."""
    path: str
    headers: Mapping[str, str]
    body: bytes

    def http(self, url: str, *, api_key: str | None) -> bytes:
        """Head and body, for the server at `url`."""
        parts = urlsplit(url)
        lines = {"Host": parts.netloc, **self.headers, "Content-Length": str(len(self.body))}
        if api_key is not None:
            lines["Authorization"] = f"Bearer {api_key}"
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"POST {parts.path.rstrip('/')}{self.path} HTTP/1.1\r\n{head}\r\n".encode() + self.body


def v2(model: str, inputs: Mapping[str, Array], *, declared: Mapping[str, str], binary: bool) -> Message:
    encoded = codec.encode(inputs, declared=declared, outputs=None, binary=binary, parameters={})
    form, path = "v2 with binary tensors" if binary else "v2 in JSON", f"/v2/models/{quote(model, safe='')}/infer"
    return Message(form=form, path=path, headers=encoded.headers, body=encoded.body)


def v1(model: str, inputs: Mapping[str, Array]) -> Message:
    """A list of rows: plain for one input, objects by input name for several."""
    columns: dict[str, list[Any]] = {name: _plain(array.tolist()) for name, array in inputs.items()}
    instances = next(iter(columns.values()))
    if len(columns) > 1:
        instances = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    path, headers = f"/v1/models/{quote(model, safe='')}:predict", {"Content-Type": "application/json"}
    return Message(form="v1", path=path, headers=headers, body=orjson.dumps({"instances": instances}))


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value
