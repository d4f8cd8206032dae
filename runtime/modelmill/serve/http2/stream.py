"""One exchange within a connection: what a handler sees of HTTP/2, and its half of flow control.

Answers are written at once where the client's windows allow; what they do not allow waits here until they open.
"""

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from modelmill.serve.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    LARGEST,
    RST_STREAM,
    WINDOW_UPDATE,
    Error,
    StreamFailed,
    answer,
    head,
    joined_answer,
    number,
)

if TYPE_CHECKING:
    from modelmill.serve.http2.connection import Connection

Pieces = Sequence[bytes | memoryview]
WINDOW = 4 << 20
"""Bytes that a client may send on one stream before it is told to go on."""
JOINED_BYTES = 64 << 10
"""Answers up to this size go out as one piece of memory."""


class Receiver(Protocol):
    """Who handles a stream. Whatever is received must be `consumed`, or the client stops sending."""

    def data(self, piece: memoryview) -> None: ...

    def end(self) -> None:
        """The client has sent everything."""

    def gone(self) -> None:
        """The client has given up, or is gone: nobody reads an answer."""

    def overdue(self) -> bool:
        """What should have arrived by now has not."""

    def leave(self) -> None:
        """The server is going away: whoever waits for the client ends now."""

    def drained(self) -> None:
        """What waited for the client's windows has been sent."""


class Stream:
    __slots__ = (
        "_connection",
        "_ends",
        "_queue",
        "_trailers",
        "_uncredited",
        "answered",
        "ended",
        "lingers",
        "number",
        "receive_window",
        "receiver",
        "send_window",
    )

    def __init__(self, connection: "Connection", number: int, *, send_window: int, ended: bool) -> None:
        self._connection = connection
        self.number = number
        self.receiver: Receiver | None = None
        self.ended = ended
        """By the client: it sends nothing more."""
        self.answered = False
        """All of the answer has been sent."""
        self.lingers = False
        """After an early answer what still comes is received, until the receiver resets: some clients do not read before."""
        self.send_window = send_window
        self.receive_window = WINDOW
        self._uncredited = 0
        self._queue: deque[memoryview] = deque()
        self._trailers: bytes | None = None
        self._ends = False
        """With what waits."""

    def send(self, *, headers: bytes | None = None, data: Pieces = (), trailers: bytes | None = None, last: bool = False) -> None:
        """Blocks of headers (before anything else), data, and trailers, which end the stream; so does `last` data."""
        connection, size = self._connection, sum(map(len, data))
        outgoing = connection.outgoing
        if self._queue or size > min(outgoing.room, self.send_window, outgoing.largest_frame):
            if headers is not None:
                connection.write([head(HEADERS, END_HEADERS, self.number, len(headers)), headers])
            if size:
                self._queue.extend(memoryview(piece) for piece in (data if size > JOINED_BYTES else (b"".join(data),)) if piece)
            self._trailers, self._ends = trailers, last
            outgoing.wait(self, connection.now())
            return
        self.send_window -= size
        outgoing.window -= size
        if size <= JOINED_BYTES:
            connection.transport.write(joined_answer(self.number, headers, data, size, last, trailers))
        else:
            connection.write(answer(self.number, headers, data, size, last, trailers))
        if trailers is not None or last:
            self._finish()

    def flush(self) -> bool:
        """Sends what the windows allow; True when nothing waits any more."""
        connection, outgoing = self._connection, self._connection.outgoing
        while self._queue:
            piece = self._queue[0]
            size = min(len(piece), outgoing.room, self.send_window, outgoing.largest_frame)
            if size <= 0:
                return False
            self.send_window -= size
            outgoing.window -= size
            if size < len(piece):
                self._queue[0] = piece[size:]
            else:
                self._queue.popleft()
            flags = END_STREAM if self._ends and not self._queue else 0
            connection.write([head(DATA, flags, self.number, size), piece[:size]])
        if self._trailers is not None:
            connection.write([head(HEADERS, END_HEADERS | END_STREAM, self.number, len(self._trailers)), self._trailers])
        if self._trailers is not None or self._ends:
            self._finish()
        return True

    @property
    def blocked(self) -> bool:
        """Something waits for the client's windows."""
        return bool(self._queue)

    def _finish(self) -> None:
        self.answered = True
        if self.ended:
            self._connection.forget(self)
        elif not self.lingers:
            # The answer is complete without the rest of the request.
            self.reset(Error.NO_ERROR)

    def open_window(self, size: int) -> None:
        """The client takes so many bytes more."""
        if not size:
            raise StreamFailed(self.number, Error.PROTOCOL_ERROR)
        self.send_window += size
        if self.send_window > LARGEST:
            raise StreamFailed(self.number, Error.FLOW_CONTROL_ERROR)

    def received(self, size: int) -> None:
        """Of the client's window."""
        if self.ended:
            raise StreamFailed(self.number, Error.STREAM_CLOSED)
        self.receive_window -= size
        if self.receive_window < 0:
            raise StreamFailed(self.number, Error.FLOW_CONTROL_ERROR)

    def consumed(self, size: int) -> None:
        """So many bytes need no memory any more: the client may send as many again."""
        self._uncredited += size
        if self._uncredited >= WINDOW // 2 and not self.ended:
            self._connection.write([number(WINDOW_UPDATE, self.number, self._uncredited)])
            self.receive_window += self._uncredited
            self._uncredited = 0

    def reset(self, code: Error) -> None:
        self._connection.write([number(RST_STREAM, self.number, code)])
        self._connection.forget(self)
