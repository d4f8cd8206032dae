"""A stream of HTTP/2 as a request of the REST protocols: the handler gets the `Request` it gets from HTTP/1.1.

So do limits and counts: a stream stands for what is a connection there. A refusal in the middle of an upload is a whole
answer; then the client is told to stop sending (RFC 9113, section 8.1), but not at once: while curl and httpx send, they do
not see the answer.
"""

import time
from collections.abc import Callable
from functools import lru_cache

from modelmill.serve.body import HEADER_LENGTH, Body
from modelmill.serve.http import CLIENT_GONE, Flow, Handler, Limits, Pending, Request, Response, error_response, path_of
from modelmill.serve.http2 import hpack
from modelmill.serve.http2.frames import Error
from modelmill.serve.http2.headers import Headers
from modelmill.serve.http2.stream import Stream

CONTINUE = hpack.encode([(":status", "100")])
LINGER_SECONDS = 2.0
MAX_LENGTH_DIGITS = 18


class RestStream:
    def __init__(
        self, stream: Stream, headers: Headers, *, handler: Handler, limits: Limits, unanswered: Callable[[int], None]
    ) -> None:
        """`unanswered` is told the status of a request that ends before the handler sees it, or because its client left."""
        self._stream = stream
        self._headers = headers
        self._handler = handler
        self._limits = limits
        self._unanswered = unanswered
        self._began = time.perf_counter()
        self._lingers_until: float | None = None
        self._pending: Pending | None = None
        self._flow: Flow | None = None
        self._arrived = self._answered = False
        text = headers.get("content-length")
        self._length = None if text is None else _length(text)
        if text is not None and self._length is None:
            self._malformed()
        elif self._length is not None and self._length > limits.max_body_bytes:
            self._too_large()
        else:
            self._body = Body(self._length, header_length=headers.get(HEADER_LENGTH, ""))
            if headers.get("expect", "").lower() == "100-continue" and not stream.ended:
                stream.send(headers=CONTINUE)

    # --- the stream's side

    def data(self, piece: memoryview) -> None:
        if self._answered:
            self._stream.consumed(len(piece))
            return
        received = self._body.received + len(piece)
        if received > self._limits.max_body_bytes:
            self._too_large()
        elif self._length is not None and received > self._length:
            self._malformed()
        else:
            self._body.add(piece)
            self._stream.consumed(len(piece))

    def end(self) -> None:
        if self._answered:
            return
        if self._length not in (None, self._body.received):
            self._malformed()
            return
        self._arrived = True
        headers = self._headers
        answer = self._handler(Request(headers[":method"], path_of(headers[":path"]), headers, self._body.content))
        if isinstance(answer, Response):
            self._send(answer)
        else:
            self._pending = answer
            answer.then(self._send)

    def gone(self) -> None:
        if under_way := self._pending or self._flow:
            self._pending = self._flow = None
            under_way.cancel()
        if not self._answered:
            self._answered = True
            self._unanswered(CLIENT_GONE)

    def overdue(self) -> bool:
        """A client that is too slow is told so, here: its stream ends with an answer."""
        now = time.perf_counter()
        if self._lingers_until is not None:
            if now > self._lingers_until and self._stream.answered:
                self._stream.reset(Error.NO_ERROR)
        elif not (self._arrived or self._answered):
            allowed = self._limits.grace_seconds + self._body.received / self._limits.least_bytes_per_second
            if now - self._began > allowed:
                self._refuse(408, f"the request did not arrive within {allowed:.0f} seconds")
        return False

    def leave(self) -> None:
        """It is answered first."""

    def drained(self) -> None:
        if self._flow:
            self._flow.resume()

    # --- the answer

    def _send(self, response: Response) -> None:
        if response.flow:
            self._pending, self._flow = None, response.flow
            self._stream.send(headers=_fields(response.status, response.content_type, response.headers))
            response.flow.into(self)
            return
        self._pending, self._answered = None, True
        head = _head(response.status, response.length, response.content_type, response.headers)
        if self._headers[":method"] == "HEAD" or not response.length:
            self._stream.send(trailers=head)
        else:
            pieces = [memoryview(piece).cast("B") if isinstance(piece, memoryview) else piece for piece in response.body]
            self._stream.send(headers=head, data=pieces, last=True)

    def piece(self, data: bytes) -> None:
        self._stream.send(data=(data,))
        if self._flow and self._stream.blocked:
            self._flow.pause()

    def finish(self, *, whole: bool) -> None:
        self._flow, self._answered = None, True
        if whole:
            self._stream.send(last=True)
        else:
            self._stream.reset(Error.INTERNAL_ERROR)

    def _refuse(self, status: int, message: str) -> None:
        self._unanswered(status)
        # Frees what has come.
        self._body = Body(None, header_length="")
        self._stream.lingers = True
        self._lingers_until = time.perf_counter() + LINGER_SECONDS
        self._send(error_response(status, message))

    def _too_large(self) -> None:
        self._refuse(413, f"the request's body is larger than {self._limits.max_body_bytes} bytes")

    def _malformed(self) -> None:
        """Another content than its `content-length` announces (RFC 9113, section 8.1.1)."""
        self._answered = True
        self._unanswered(400)
        self._stream.reset(Error.PROTOCOL_ERROR)


def _length(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_LENGTH_DIGITS else None


def _head(status: int, length: int, content_type: str, headers: tuple[tuple[str, str], ...]) -> bytes:
    return _fields(status, content_type if length else None, headers) + hpack.encode([("content-length", str(length))])


@lru_cache(maxsize=256)
def _fields(status: int, content_type: str | None, headers: tuple[tuple[str, str], ...]) -> bytes:
    fields = [(":status", str(status)), *((name.lower(), value) for name, value in headers)]
    return hpack.encode(fields if content_type is None else [*fields, ("content-type", content_type)])
