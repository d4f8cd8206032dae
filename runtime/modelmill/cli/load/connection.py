"""One keep-alive connection that sends a ready-made request and reads answers, with as little in between as possible."""

import asyncio
import time
from typing import Protocol, cast

import httptools

BROKEN = "broken"
TIMED_OUT = "timeout"
MAX_TEXT = 200


class Load(Protocol):
    """What a connection tells. Each request ends with one of `answered` and `failed`; `idle` may send at once."""

    def idle(self, connection: "Connection") -> None: ...

    def answered(self, *, status: int, due: float, text: bytes) -> None: ...

    def failed(self, code: str, text: str) -> None: ...

    def gone(self, connection: "Connection") -> None: ...


class Connection(asyncio.Protocol):
    def __init__(self, load: Load, request: bytes) -> None:
        self._load = load
        self._request = request
        self._parser = httptools.HttpResponseParser(self)
        self._received = b""
        self._due: float | None = None
        self._sent = 0.0
        self._transport: asyncio.Transport | None = None
        self.failed = False

    @property
    def busy(self) -> bool:
        return self._due is not None

    @property
    def closing(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._load.idle(self)

    def send(self, due: float) -> None:
        """Sends the request; its latency counts from `due` (of time.perf_counter)."""
        assert self._transport is not None and self._due is None
        self._due, self._sent = due, time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received = data
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._give_up(BROKEN, f"the answer is not HTTP: {error}")

    def on_message_complete(self) -> None:
        """Called by the parser, from within feed_data."""
        due, self._due = self._due, None
        if due is None:  # the server answers what nobody asked, as some do before they close an idle connection
            self.close()
            return
        status = self._parser.get_status_code()
        # The text of an error nearly always comes with its head; collecting every body would cost time with each answer.
        text = b"" if status < 300 else self._received.partition(b"\r\n\r\n")[2][:MAX_TEXT]
        self._load.answered(status=status, due=due, text=text)
        if self._parser.should_keep_alive():
            self._load.idle(self)
        else:
            self.close()

    def expire(self, before: float) -> None:
        """Gives up the answer when it was asked for before this time."""
        if self._due is not None and self._sent < before:
            self._give_up(TIMED_OUT, "no answer in time")

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if self._due is not None:
            self._give_up(BROKEN, f"the connection broke: {error or 'the server closed it without an answer'}")
        self._load.gone(self)

    def _give_up(self, code: str, text: str) -> None:
        if self._due is not None:
            self._load.failed(code, text)
        self._due, self.failed = None, True
        if self._transport is not None:
            self._transport.abort()
