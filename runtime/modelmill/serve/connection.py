"""HTTP/1.1 as this server needs it: one `asyncio.BufferedProtocol` a connection, parsed by httptools.

Requests of one connection are answered in their order (pipelining is safe), one at a time. Every limit is enforced
while bytes arrive: size of the head, size of the body, and a least speed, so that a slow client costs a socket and
nothing else. When the client goes away its running request is cancelled. A refusal in the middle of an upload is
followed by a lingering close: closing at once would reset the connection and destroy the answer on its way.

A large body is received where it stays: the kernel writes into the request's own memory, placed so that the tensor
after a JSON header is aligned, and the parser is not asked to copy it.
"""

import asyncio
import socket
from collections import deque
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

import httptools

from modelmill.serve import heads
from modelmill.serve.body import DIRECT_BYTES, HEADER_LENGTH, aligned
from modelmill.serve.chunked import Chunked
from modelmill.serve.http import CLIENT_GONE, Bytes, Pending, Request, Response, error_response, path_of
from modelmill.serve.port import PortConnection

if TYPE_CHECKING:
    from modelmill.serve._fastpath import Slot
    from modelmill.serve.listener import Listener

LINGER_SECONDS = 2.0
MAX_PIPELINED = 8
AT_ONCE_BYTES = 256 << 10
"""Of a large body: the loop is woken when so much has come, not for each packet."""
JOINED_BYTES = 16 << 10
"""Answers up to this size go out as one piece of memory."""
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Length: " for status in HTTPStatus}
_NAMES: dict[bytes, str] = {}
"""Header names seen, in lower case; bounded, because clients choose them."""
MAX_NAMES = 256


class Connection(PortConnection):
    """One client's socket: bytes in, requests to the handler, responses out in order."""

    transport: asyncio.Transport

    def __init__(self, listener: "Listener") -> None:
        self._listener = listener
        self._limits = listener.limits
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._todo: deque[tuple[Request | Response, bool]] = deque()
        self._pending: Pending | Slot | Chunked | None = None
        self._keep_alive = True
        self._without_body = False
        self._knows_chunks = True
        """The client speaks HTTP/1.1, as those of known heads do."""
        self._paused = False
        self._began: float | None = None
        self._received = 0
        self._wakes_at = 1
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
        self._body: Bytes = bytearray()
        self._direct: memoryview | None = None
        """What is still to be received of a large body."""

    # --- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not asserted: uvloop's transports do not inherit from asyncio's.
        self.transport = cast(asyncio.Transport, transport)
        self._listener.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.connections.discard(self)
        gone = sum(isinstance(item, Request) for item, _ in self._todo)
        self._todo.clear()
        if self._pending:
            self._pending.cancel()
            self._pending = None
            gone += 1
        for _ in range(gone):
            self._listener.unanswered(CLIENT_GONE)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._listener.scratch if self._direct is None else self._direct

    def buffer_updated(self, nbytes: int) -> None:
        fast = self._listener.fast
        if fast and self._idle and (slot := fast.take(self, nbytes)) is not None:
            self._pending, self._without_body = slot, False
            return
        self._active = self._loop.time()
        if self._refused:
            return
        if self._direct is not None:
            self._received += nbytes
            self._direct = self._direct[nbytes:]
            if self._wakes_at > 1 and len(self._direct) < self._wakes_at:
                self._wake_at(len(self._direct))
            if not self._direct:
                self._finish_direct()
        elif self._began is None and nbytes <= heads.MOST_BYTES:
            self._begin(bytes(self._listener.scratch[:nbytes]))
        else:
            self._parse(self._listener.scratch[:nbytes])
        if self._refused:
            self._todo.append((self._refused, False))
        elif len(self._todo) > MAX_PIPELINED:
            self._paused = True
            self.transport.pause_reading()
        self._work()

    def pause_writing(self) -> None:
        self._unread_since = self._loop.time()
        if isinstance(self._pending, Chunked):
            self._pending.pause()

    def resume_writing(self) -> None:
        self._unread_since = None
        if isinstance(self._pending, Chunked):
            self._pending.resume()
        self._work()

    # --- the parser's side

    def _begin(self, data: bytes) -> None:
        """Between two messages, where most begin and end."""
        known = self._listener.heads.find(data)
        if known:
            self._knows_chunks = True
            self._todo.append(known)
        else:
            before = len(self._todo)
            self._parse(data)
            if len(self._todo) != before + 1 or self._began is not None or self._refused:
                return
            known = cast(tuple[Request, bool], self._todo[-1])
            if self._knows_chunks:
                self._listener.heads.learn(data, known[0], keep_alive=known[1])
        if self._listener.fast and known[1]:
            self._listener.fast.learn(data, known[0])

    def _parse(self, data: Bytes) -> None:
        self._began = self._began or self._active
        self._received += len(data)
        self._feed(data)
        self._receive_directly()
        if self._began and not self._head_complete and self._received > self._limits.max_head_bytes:
            self._refuse(431, f"the request's head is larger than {self._limits.max_head_bytes} bytes")

    def _feed(self, data: Bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(bytes(data[upgrade.args[0] :]))
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
        lines = (f"{name}: {value}\r\n" for name, value in kept)
        head = b"%b %b HTTP/1.1\r\n%b\r\n" % (method, self._url, "".join(lines).encode("latin-1"))
        self._reset()
        self._feed(head + rest)

    def on_message_begin(self) -> None:
        self._began = self._active

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._head_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        key, text = _NAMES.get(name) or _name(name), value.decode("latin-1")
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
            assert isinstance(self._body, bytearray)
            self._body += chunk
            if len(self._body) > self._limits.max_body_bytes:
                self._too_large()

    def _receive_directly(self) -> None:
        """Prepares for the rest of a large body whose length is known and whose beginning has been parsed."""
        length = int(self._headers.get("content-length", 0)) if self._head_complete else 0
        if length < DIRECT_BYTES or self._refused or self._began is None or "transfer-encoding" in self._headers:
            return
        begun = self._body
        self._body = aligned(length, self._headers.get(HEADER_LENGTH, ""))
        self._body[: len(begun)] = begun
        self._direct = self._body[len(begun) :]
        if len(self._direct) > AT_ONCE_BYTES:
            self._wake_at(AT_ONCE_BYTES)

    def _wake_at(self, nbytes: int) -> None:
        """How many bytes must have come for the loop to be woken. Without effect on TLS, whose records are others."""
        self._wakes_at = max(nbytes, 1)
        if self.transport.get_extra_info("sslcontext") is None:
            receiving: socket.socket = self.transport.get_extra_info("socket")
            receiving.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, self._wakes_at)

    def _finish_direct(self) -> None:
        finished = self._parser
        # It never saw the body's end.
        self._parser = httptools.HttpRequestParser(self)
        self._complete(finished)

    def on_message_complete(self) -> None:
        if not self._refused and not self._parser.should_upgrade():
            self._complete(self._parser)

    def _complete(self, parser: httptools.HttpRequestParser) -> None:
        self._began, self._received = None, 0
        self._knows_chunks = parser.get_http_version() != "1.0"
        path = path_of(self._url.decode("latin-1"))
        request = Request(parser.get_method().decode("latin-1"), path, self._headers, self._body)
        self._todo.append((request, parser.should_keep_alive()))
        # Now, not when the next message begins: blank lines may come before it.
        self._reset()

    def _too_large(self) -> None:
        self._body = bytearray()
        self._refuse(413, f"the request's body is larger than {self._limits.max_body_bytes} bytes")

    def _refuse(self, status: int, message: str) -> None:
        if not self._refused:
            self._refused = error_response(status, message)
            self._listener.unanswered(status)

    # --- the handler's side

    def _work(self) -> None:
        while self._todo and not self._pending and self._unread_since is None and self._lingers_until is None:
            item, self._keep_alive = self._todo.popleft()
            self._without_body = isinstance(item, Request) and item.method == "HEAD"
            answer = item if isinstance(item, Response) else self._listener.handler(item)
            if isinstance(answer, Response):
                self._send(answer)
            else:
                self._pending = answer
                answer.then(self.send_response)
        if self._paused and not self._todo:
            self._resume()

    def _resume(self) -> None:
        if self._paused and not self.transport.is_closing():
            self._paused = False
            self.transport.resume_reading()

    def send_message(self, message: bytes) -> None:
        """The fast path's answer, which is whole, to a client that keeps its connection."""
        if self._listener.draining or self.transport.is_closing():
            self.send_response(Response(body=(message.partition(b"\r\n\r\n")[2],)))
            return
        self._pending = None
        self._active = self._loop.time()
        self.transport.write(message)
        if self._todo or self._paused:
            self._work()

    def send_response(self, response: Response) -> None:
        self._pending = None
        if response.flow:
            self._pending = Chunked(self, response, framed=self._knows_chunks)
            self._pending.begin(close=not self._keep_alive or self._listener.draining)
        elif not self.transport.is_closing():
            self._send(response)
            if self._todo or self._paused:
                self._work()

    def _send(self, response: Response) -> None:
        self._active = self._loop.time()
        close = not self._keep_alive or self._listener.draining
        length = response.length
        head = f"{_STATUS_LINES[response.status]}{length}\r\n"
        if length:
            head += f"Content-Type: {response.content_type}\r\n"
        for name, value in response.headers:
            head += f"{name}: {value}\r\n"
        # A client takes the body of an answer to HEAD for the beginning of the next answer.
        body = () if self._without_body else response.body
        pieces = ((head + ("Connection: close\r\n\r\n" if close else "\r\n")).encode("latin-1"), *body)
        if length <= JOINED_BYTES:
            self.transport.write(b"".join(pieces))
        else:
            self.transport.writelines(pieces)
        if response is self._refused:
            self._linger()
        elif close:
            self._todo.clear()
            self.transport.close()

    def flowed(self, *, close: bool) -> None:
        """A body in pieces has ended."""
        self._pending = None
        self._active = self._loop.time()
        if close or not self._keep_alive or self._listener.draining:
            self._todo.clear()
            self.transport.close()
        elif self._todo or self._paused:
            self._work()

    def cut(self) -> None:
        """A body in pieces will not be whole: the client sees that its end is missing."""
        self._pending = None
        self.transport.abort()

    def _linger(self) -> None:
        self._lingers_until = self._loop.time() + LINGER_SECONDS
        self._resume()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    # --- the listener's side

    @property
    def _idle(self) -> bool:
        """The next byte begins a request that may be answered at once."""
        free = self._pending is None and self._began is None and self._unread_since is None
        return free and not self._todo and not self._refused

    @property
    def busy(self) -> bool:
        """A request is arriving, being answered, or its answer is not yet in the kernel."""
        under_way = self._began is not None or self._pending is not None or bool(self._todo)
        return under_way or (not self.transport.is_closing() and self.transport.get_write_buffer_size() > 0)

    def sweep(self, now: float) -> None:
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


def _name(name: bytes) -> str:
    key = name.decode("latin-1").lower()
    if len(_NAMES) < MAX_NAMES:
        _NAMES[bytes(name)] = key
    return key
