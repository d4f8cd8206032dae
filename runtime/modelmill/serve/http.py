"""HTTP/1.1 as this server needs it: one `asyncio.Protocol` a connection, parsed by httptools.

Requests of one connection are answered in their order (pipelining is safe), one at a time. Every limit is enforced
while bytes arrive: size of the head, size of the body, and a least speed, so that a slow client costs a socket and
nothing else. When the client goes away its running request is cancelled. A refusal in the middle of an upload is
followed by a lingering close: closing at once would reset the connection and destroy the answer on its way.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

import httptools
import orjson

if TYPE_CHECKING:
    from modelmill.serve.listener import Listener

JSON = "application/json"
CLIENT_GONE = 499
"""Not a status that anybody receives: for counting."""
LINGER_SECONDS = 2.0
MAX_PIPELINED = 8
_REASONS = {status.value: status.phrase for status in HTTPStatus}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    max_body_bytes: int = 16 << 20
    max_head_bytes: int = 32 << 10
    grace_seconds: float = 20.0
    """A request may take this long to arrive, plus its bytes at `least_bytes_per_second`."""
    least_bytes_per_second: int = 32 << 10
    idle_seconds: float = 120.0
    """Longer than what proxies and load balancers keep, so that they close idle connections, not we."""
    unread_seconds: float = 60.0
    """How long an answer may wait for a client that does not read it."""
    sweep_seconds: float = 1.0
    """How often all connections are checked for the above."""


@dataclass(slots=True, kw_only=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytearray


@dataclass(slots=True, kw_only=True)
class Response:
    status: int = 200
    body: Sequence[bytes | memoryview] = ()
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


Handler = Callable[[Request], Response | Coroutine[Any, Any, Response]]


def json_response(content: Any, *, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    return Response(status=status, body=(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY),), headers=headers)


def error_response(status: int, message: str, *, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    return json_response({"error": message}, status=status, headers=headers)


class Connection(asyncio.Protocol):
    """One client's socket: bytes in, requests to the handler, responses out in order."""

    transport: asyncio.Transport

    def __init__(self, listener: "Listener") -> None:
        self._listener = listener
        self._limits = listener.limits
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._todo: deque[tuple[Request | Response, bool]] = deque()
        self._task: asyncio.Task[Response] | None = None
        self._keep_alive = True
        self._paused = False
        self._began: float | None = None
        self._received = 0
        self._refused: Response | None = None
        self._lingers_until: float | None = None
        self._unread_since: float | None = None
        self._active = self._loop.time()
        self._reset()

    def _reset(self) -> None:
        self._url = b""
        self._headers: dict[str, str] = {}
        self._head_bytes = 0
        self._head_complete = False
        self._body = bytearray()

    # --- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not asserted: uvloop's transports do not inherit from asyncio's.
        self.transport = cast(asyncio.Transport, transport)
        self._listener.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.connections.discard(self)
        gone = sum(isinstance(item, Request) for item, _ in self._todo)
        self._todo.clear()
        if self._task and self._task.cancel():
            gone += 1
        for _ in range(gone):
            self._listener.unanswered(CLIENT_GONE)

    def data_received(self, data: bytes) -> None:
        self._active = self._loop.time()
        if self._refused:
            return
        self._began = self._began or self._active
        self._received += len(data)
        self._feed(data)
        if self._began and not self._head_complete and self._received > self._limits.max_head_bytes:
            self._refuse(431, f"the request's head is larger than {self._limits.max_head_bytes} bytes")
        if self._refused:
            self._todo.append((self._refused, False))
        elif len(self._todo) > MAX_PIPELINED:
            self._paused = True
            self.transport.pause_reading()
        self._work()

    def pause_writing(self) -> None:
        self._unread_since = self._loop.time()

    def resume_writing(self) -> None:
        self._unread_since = None
        self._work()

    # --- the parser's side

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._refuse(400, f"not an HTTP/1.1 request: {error}")

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Java's client offers h2c with every request; a server may ignore that, but httptools then skips the body.

        So the request is parsed again without the offer.
        """
        method = self._parser.get_method()
        self._parser = httptools.HttpRequestParser(self)
        if method == b"CONNECT":
            self._refuse(400, "CONNECT is not possible: this is not a proxy")
            return
        tokens = {token.strip().lower() for token in self._headers.pop("connection", "").split(",")}
        self._headers.pop("upgrade", None)
        kept = [*self._headers.items(), ("connection", "close" if "close" in tokens else "keep-alive")]
        head = "".join(f"{name}: {value}\r\n" for name, value in kept).encode("latin-1")
        self._feed(method + b" " + self._url + b" HTTP/1.1\r\n" + head + b"\r\n" + rest)

    def on_message_begin(self) -> None:
        self._reset()
        self._began = self._active

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._head_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text

    def on_headers_complete(self) -> None:
        self._head_complete = True
        if self._head_bytes > self._limits.max_head_bytes:
            self._refuse(431, f"the request's head is larger than {self._limits.max_head_bytes} bytes")
        elif int(self._headers.get("content-length", 0)) > self._limits.max_body_bytes:
            self._too_large()
        elif self._headers.get("expect", "").lower() == "100-continue" and not (self._refused or self._parser.should_upgrade()):
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, chunk: bytes) -> None:
        if not self._refused:
            self._body += chunk
            if len(self._body) > self._limits.max_body_bytes:
                self._too_large()

    def on_message_complete(self) -> None:
        if self._refused or self._parser.should_upgrade():
            return
        self._began, self._received = None, 0
        path = self._url.partition(b"?")[0].decode("latin-1")
        request = Request(
            method=self._parser.get_method().decode("latin-1"),
            path=unquote(path) if "%" in path else path,
            headers=self._headers,
            body=self._body,
        )
        self._todo.append((request, self._parser.should_keep_alive()))

    def _too_large(self) -> None:
        self._body.clear()
        self._refuse(413, f"the request's body is larger than {self._limits.max_body_bytes} bytes")

    def _refuse(self, status: int, message: str) -> None:
        if not self._refused:
            self._refused = error_response(status, message)
            self._listener.unanswered(status)

    # --- the handler's side

    def _work(self) -> None:
        while self._todo and not self._task and self._unread_since is None and self._lingers_until is None:
            item, self._keep_alive = self._todo.popleft()
            answer = item if isinstance(item, Response) else self._listener.handler(item)
            if isinstance(answer, Response):
                self._send(answer)
            else:
                self._task = self._loop.create_task(answer)
                self._task.add_done_callback(self._answered)
        if self._paused and not self._todo:
            self._resume()

    def _resume(self) -> None:
        if self._paused and not self.transport.is_closing():
            self._paused = False
            self.transport.resume_reading()

    def _answered(self, task: "asyncio.Task[Response]") -> None:
        self._task = None
        if not task.cancelled() and not self.transport.is_closing():
            self._send(task.result())
            self._work()

    def _send(self, response: Response) -> None:
        self._active = self._loop.time()
        close = not self._keep_alive or self._listener.draining
        length = sum(memoryview(part).nbytes for part in response.body)
        lines = [f"HTTP/1.1 {response.status} {_REASONS.get(response.status, '')}", f"Content-Length: {length}"]
        if length:
            lines.append(f"Content-Type: {response.content_type}")
        lines.extend(f"{name}: {value}" for name, value in response.headers)
        if close:
            lines.append("Connection: close")
        self.transport.writelines(["\r\n".join((*lines, "\r\n")).encode("latin-1"), *response.body])
        if response is self._refused:
            self._linger()
        elif close:
            self._todo.clear()
            self.transport.close()

    def _linger(self) -> None:
        self._lingers_until = self._loop.time() + LINGER_SECONDS
        self._resume()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    # --- the listener's side

    @property
    def busy(self) -> bool:
        """A request is arriving, being answered, or its answer is not yet in the kernel."""
        under_way = self._began is not None or self._task is not None or bool(self._todo)
        return under_way or (not self.transport.is_closing() and self.transport.get_write_buffer_size() > 0)

    def sweep(self, now: float) -> None:
        """Called about once a second: everything that depends on time passing without bytes."""
        if self._lingers_until is not None:
            if now > self._lingers_until:
                self.transport.abort()
        elif self._unread_since is not None:
            if now - self._unread_since > self._limits.unread_seconds:
                self.transport.abort()
        elif self._began is not None:
            allowed = self._limits.grace_seconds + self._received / self._limits.least_bytes_per_second
            if now - self._began > allowed and not self._refused:
                self._refuse(408, f"the request did not arrive within {allowed:.0f} seconds")
                assert self._refused
                self._todo.append((self._refused, False))
                self._work()
        elif not self.busy and now - self._active > self._limits.idle_seconds:
            self.transport.close()
