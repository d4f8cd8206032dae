"""The two kinds of calls, as receivers of HTTP/2 streams: one request and one answer, or many of each."""

import time
from collections import deque
from collections.abc import Callable

from modelmill.serve.errors import BadRequest, Refusal
from modelmill.serve.grpc.exchange import Accounts, Exchange, Message, Method
from modelmill.serve.grpc.framing import Messages, framed, whole
from modelmill.serve.grpc.status import CANCELLED, DONE, HEAD, HEADERS, LEAVING, Refused, refused
from modelmill.serve.http import Limits
from modelmill.serve.http2 import hpack
from modelmill.serve.http2.headers import Headers
from modelmill.serve.http2.stream import Pieces, Stream

_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


def timeout_of(headers: Headers) -> float | None:
    """How many seconds the client waits."""
    text = headers.get("grpc-timeout")
    if text is None:
        return None
    if not (text[:-1].isascii() and text[:-1].isdigit()) or text[-1] not in _UNITS:
        raise BadRequest(f"grpc-timeout {text[:40]!r} is not a number and a unit")
    return int(text[:-1]) * _UNITS[text[-1]]


def refuse(stream: Stream, refusal: Refused) -> None:
    """Ends a call that has not been answered yet."""
    stream.send(trailers=hpack.encode([*HEADERS, *refusal.fields()]))


class Unary(Exchange):
    __slots__ = ("_headers", "_limits", "_message", "_messages", "_running", "_since", "_stream", "_timeout")

    def __init__(self, stream: Stream, headers: Headers, *, method: Method, accounts: Accounts, limits: Limits) -> None:
        super().__init__(accounts, method)
        self._stream = stream
        self._timeout = timeout_of(headers)
        self._limits = limits
        self._headers = headers
        self._messages: Messages | None = None
        """Where the first piece was not all of the message."""
        self._message: Message | None = None
        self._since = time.perf_counter()
        self._running = False

    def data(self, piece: memoryview) -> None:
        if not self._stream.ended:
            self._stream.consumed(len(piece))
        if self._messages is None:
            if self._message is None and (message := whole(piece, max_bytes=self._limits.max_body_bytes)) is not None:
                self._message = message
                return
            self._messages = Messages(self._headers, max_bytes=self._limits.max_body_bytes)
        try:
            for message in self._messages.feed(piece):
                if self._message is not None:
                    raise BadRequest("this method takes one message, not several")
                self._message = message
        except Refusal as refusal:
            self._refuse(refused(refusal))

    def end(self) -> None:
        if self._message is None:
            self._refuse(refused(BadRequest("the call ended without a complete message")))
            return
        self._running = True
        self.run(self._message, remaining=self._timeout)

    def answered(self, outcome: Pieces | Refused) -> None:
        if isinstance(outcome, Refused):
            refuse(self._stream, outcome)
        else:
            self._stream.send(headers=HEAD, data=framed(outcome), trailers=DONE)

    def _refuse(self, refusal: Refused) -> None:
        self._count_early(refusal)
        refuse(self._stream, refusal)

    @property
    def _arrived(self) -> int:
        """Bytes of a message that is not complete."""
        return self._messages.received if self._messages else 0

    def _count_early(self, refusal: Refused) -> None:
        """Of a request that has not run."""
        self._accounts.count(self._method, refusal, began=self._since, received=self._arrived)

    def gone(self) -> None:
        if self._running:
            self.cancel()
        else:
            self._count_early(CANCELLED)

    def overdue(self) -> bool:
        allowed = self._limits.grace_seconds + self._arrived / self._limits.least_bytes_per_second
        return not self._running and time.perf_counter() - self._since > allowed

    def leave(self) -> None:
        """It is answered first."""

    def drained(self) -> None:
        pass


class _Place(Exchange):
    """One of a stream's requests, in the order of the answers."""

    __slots__ = ("_stream", "answer", "message")

    def __init__(self, accounts: Accounts, method: Method, *, message: Message, stream: "Streaming") -> None:
        super().__init__(accounts, method)
        self._stream = stream
        self.message = message
        self.answer: Pieces | None = None

    def answered(self, outcome: Pieces | Refused) -> None:
        self._stream.answered(self, outcome)


class Streaming:
    """Answers leave in the order of the requests, which run together as far as they may.

    Of one stream a bounded number is under way, so that it fills batches without filling the queue. Beyond that the
    client's window stays closed. When the stream breaks, everything under way is cancelled.
    """

    def __init__(
        self,
        stream: Stream,
        headers: Headers,
        *,
        method: Method,
        error: Callable[[Message, str], Pieces],
        most: int,
        accounts: Accounts,
        limits: Limits,
    ) -> None:
        self._stream = stream
        self._timeout = timeout_of(headers)
        self._method = method
        self._error = error
        self._most = most
        self._accounts = accounts
        self._limits = limits
        self._messages = Messages(headers, max_bytes=limits.max_body_bytes)
        self._began = self._message_began = time.perf_counter()
        self._ready: deque[Message] = deque()
        self._places: deque[_Place] = deque()
        self._uncredited = 0
        self._pumping = self._started = self._leaving = False

    def data(self, piece: memoryview) -> None:
        if self._leaving:
            return
        if not self._messages.received:
            self._message_began = time.perf_counter()
        self._uncredited += len(piece)
        try:
            self._ready.extend(self._messages.feed(piece))
        except Refusal as refusal:
            self._close(refused(refusal))
        else:
            self._pump()

    def end(self) -> None:
        if self._messages.received:
            self._close(refused(BadRequest("the stream ended within a message")))
        else:
            self._pump()

    def leave(self) -> None:
        self._leaving = True
        self._pump()

    def drained(self) -> None:
        self._pump()

    def _pump(self) -> None:
        """Starts what may run, sends what is next in order, until neither is possible. Answers may come at once."""
        if self._pumping:
            return
        self._pumping = True
        while True:
            self._start()
            answers: list[bytes | memoryview] = []
            while self._places and (answer := self._places[0].answer) is not None:
                answers += framed(answer)
                self._places.popleft()
            if not answers:
                break
            self._stream.send(headers=self._head(), data=answers)
        self._pumping = False
        if not self._ready:
            self._stream.consumed(self._uncredited)
            self._uncredited = 0
        if not (self._places or self._ready or self._stream.blocked) and (self._leaving or self._stream.ended):
            self._close(None if self._stream.ended else LEAVING)

    def _start(self) -> None:
        while self._ready and len(self._places) < self._most and not self._stream.blocked:
            message = self._ready.popleft()
            place = _Place(self._accounts, self._method, message=message, stream=self)
            self._places.append(place)
            place.run(message, remaining=self._remaining())

    def _remaining(self) -> float | None:
        return None if self._timeout is None else self._began + self._timeout - time.perf_counter()

    def answered(self, place: _Place, outcome: Pieces | Refused) -> None:
        place.answer = self._error(place.message, outcome.details) if isinstance(outcome, Refused) else outcome
        self._pump()

    def _head(self) -> bytes | None:
        started, self._started = self._started, True
        return None if started else HEAD

    def _close(self, refusal: Refused | None) -> None:
        fields = refusal.fields() if refusal else [("grpc-status", "0")]
        self._cancel()
        self._stream.send(headers=self._head(), trailers=hpack.encode(fields))

    def _cancel(self) -> None:
        self._ready.clear()
        for place in self._places:
            if place.answer is None:
                place.cancel()
        self._places.clear()

    def gone(self) -> None:
        self._cancel()

    def overdue(self) -> bool:
        """Between messages a client may be silent for as long as it likes."""
        received = self._messages.received
        allowed = self._limits.grace_seconds + received / self._limits.least_bytes_per_second
        return bool(received) and not self._ready and time.perf_counter() - self._message_began > allowed
