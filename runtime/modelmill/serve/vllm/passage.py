"""One request on its way to vLLM and back: bytes in, bytes out, over vLLM's socket.

An answer of known length is handed on whole; any other is a flow, each piece as it comes. A client that does not keep up
stops the reading here, and with it vLLM's writing; one that goes away closes the connection, by which vLLM knows that
nobody waits for the rest.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import httptools

from modelmill.serve.errors import Expired, ModelFailed, NotReady
from modelmill.serve.frontdoor import FrontDoor, refused
from modelmill.serve.http import Pending, Request, Response, Sink

PASSED_ON = ("content-type", "accept", "x-request-id", "traceparent", "tracestate")
PASSED_BACK = ("x-request-id", "retry-after")


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """A request for vLLM."""

    socket: Path
    method: str
    request: Request
    """With its body as vLLM gets it: decompressed."""
    timeout_seconds: float

    def begin(self, door: FrontDoor, request: Request, *, protocol: str, began: float) -> Pending:
        return Passage(self, door, request, protocol=protocol, began=began)

    @property
    def message(self) -> bytes:
        request = self.request
        fields = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
        fields |= {"host": "localhost", "connection": "close", "content-length": str(len(request.body))}
        lines = (f"{self.method} {request.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", "")
        return "\r\n".join(lines).encode("latin-1") + bytes(request.body)


@dataclass(slots=True)
class _Head:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)


class Passage(asyncio.Protocol):
    """The connection to vLLM, and towards the client a `Pending` and a `Flow`."""

    def __init__(self, forward: Forward, door: FrontDoor, request: Request, *, protocol: str, began: float) -> None:
        self._forward, self._door, self._request = forward, door, request
        self._protocol, self._began = protocol, began
        self._parser = httptools.HttpResponseParser(self)
        self._head = _Head()
        self._body = bytearray()
        self._sent = 0
        self._sink: Sink | None = None
        self._transport: asyncio.Transport | None = None
        self._over = False
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(forward.timeout_seconds, self._expire)
        door.concurrency.enter()
        self._connecting = loop.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: self, str(self._forward.socket))
        except OSError:
            self._fail(NotReady("vLLM does not take connections"))

    # --- Pending and Flow: the client's side

    def then(self, send: Callable[[Response], None]) -> None:
        self._send = send

    def into(self, sink: Sink) -> None:
        self._sink = sink

    def pause(self) -> None:
        if self._transport:
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport:
            self._transport.resume_reading()

    def cancel(self) -> None:
        self._end()

    # --- vLLM's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._over:
            self._transport.abort()
            return
        self._transport.write(self._forward.message)

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ModelFailed(f"vLLM's answer is not HTTP: {error}", status=502))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(ModelFailed("vLLM closed the connection before its answer was whole", status=502))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._head.status = self._parser.get_status_code()
        if "content-length" not in self._head.headers:
            self._send(self._response(flowing=True))

    def on_body(self, piece: bytes) -> None:
        self._sent += len(piece)
        if self._sink:
            self._sink.piece(piece)
        elif not self._over:
            self._body += piece

    def on_message_complete(self) -> None:
        self._finish(None)

    def _response(self, *, flowing: bool) -> Response:
        headers = self._head.headers
        return Response(
            status=self._head.status,
            body=() if flowing else (bytes(self._body),),
            content_type=headers.get("content-type", "application/octet-stream"),
            headers=tuple((name, headers[name]) for name in PASSED_BACK if name in headers),
            flow=self if flowing else None,
        )

    # --- ends

    def _expire(self) -> None:
        self._door.expired()
        self._fail(Expired(f"no whole answer within {self._forward.timeout_seconds:g} s"))

    def _fail(self, error: Exception) -> None:
        self._finish(error)

    def _finish(self, error: Exception | None) -> None:
        """Once, with the first reason there is; None: the answer is whole."""
        if self._over:
            return
        sink = self._end()
        if sink:
            self._count()
            sink.finish(whole=error is None)
        else:
            answer = self._response(flowing=False) if error is None else refused(error, self._protocol)
            self._send(self._door.finished(self._request, answer, protocol=self._protocol, began=self._began))

    def _count(self) -> None:
        """A flow: under the code that its client has got."""
        self._door.count_bytes(self._request, self._head.status, self._sent, protocol=self._protocol, began=self._began)

    def _end(self) -> Sink | None:
        """The request is no load any more, and vLLM need not go on with it."""
        sink, self._sink = self._sink, None
        if not self._over:
            self._over = True
            self._door.concurrency.leave()
            self._timer.cancel()
            if self._transport:
                self._transport.abort()
        return sink
