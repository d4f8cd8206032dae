"""A server that answers as a test tells it, on loopback, and remembers what it was asked."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    method: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    peer: int
    """The client's port: one for each connection."""

    @property
    def header_length(self) -> int:
        return int(self.headers.get("inference-header-content-length", len(self.body)))

    @property
    def json(self) -> dict[str, Any]:
        """The body, or the JSON header of one with raw tensors."""
        told: dict[str, Any] = orjson.loads(self.body[: self.header_length])
        return told


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False
    """Close the connection instead."""


Script = Callable[[Asked], Answer]


@dataclass(slots=True, kw_only=True)
class Scripted:
    url: str
    asked: list[Asked] = field(default_factory=list)

    def paths(self, method: str) -> list[str]:
        return [asked.path for asked in self.asked if asked.method == method]


@contextmanager
def scripted(script: Script) -> Iterator[Scripted]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet: the second would wait for the first's acknowledgement

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            peer = int(self.client_address[1])
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(method=self.command, path=self.path, headers=headers, body=body, peer=peer)
            told.asked.append(asked)
            answer = script(asked)
            if answer.cut:
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)

        do_GET = do_POST = _answer

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        told = Scripted(url=f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield told
        finally:
            server.shutdown()
            thread.join(10)


def replies(*answers: Answer) -> Script:
    """One after the other, to inferences; the server itself and its model are as `reading` tells."""
    left = iter(answers)
    return lambda asked: next(left) if asked.method == "POST" else reading(asked)


def reading(asked: Asked, *, extensions: tuple[str, ...] = ("binary_tensor_data",)) -> Answer:
    if asked.path == "/v2":
        return Answer(body=orjson.dumps({"name": "scripted", "version": "1", "extensions": extensions}))
    tensor = {"name": "x", "datatype": "FP32", "shape": [-1, 2]}
    return Answer(body=orjson.dumps({"name": "m", "platform": "none", "inputs": [tensor], "outputs": [tensor]}))


def outputs(*tensors: dict[str, Any]) -> Answer:
    return Answer(body=orjson.dumps({"model_name": "m", "outputs": tensors}))


def echo(asked: Asked) -> Answer:
    """Sends the inputs back as outputs of the same name, in the form in which they came."""
    if asked.method == "GET":
        return reading(asked)
    header = orjson.dumps({"model_name": "m", "outputs": asked.json["inputs"]})
    raw = asked.body[asked.header_length :]
    return Answer(body=header + raw, headers={"Inference-Header-Content-Length": str(len(header))} if raw else {})
