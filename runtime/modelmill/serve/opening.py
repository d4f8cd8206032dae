"""The beginning of a connection, which says what it speaks: HTTP/2 begins with its preface, all else is HTTP/1.1.

That is HTTP/2 with prior knowledge (RFC 9113, section 3.3). What has been read is handed over and read again, so that the
others know nothing of it, and a connection pays for it once, not with each request.
"""

import asyncio
from typing import TYPE_CHECKING, cast

from modelmill.serve.connection import Connection
from modelmill.serve.http2.frames import PREFACE
from modelmill.serve.port import PortConnection, hand_over

if TYPE_CHECKING:
    from modelmill.serve.listener import Listener


class Opening(PortConnection):
    """A connection until its first bytes have shown what it is."""

    transport: asyncio.Transport

    __slots__ = ("_began", "_held", "_listener", "transport")

    def __init__(self, listener: "Listener") -> None:
        self._listener = listener
        self._began = asyncio.get_running_loop().time()
        self._held = b""
        """As much of the preface as has come; never all of it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not asserted: uvloop's transports do not inherit from asyncio's.
        self.transport = cast(asyncio.Transport, transport)
        self._listener.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.connections.discard(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._listener.scratch[len(self._held) :] if self._held else self._listener.scratch

    def buffer_updated(self, nbytes: int) -> None:
        scratch = self._listener.scratch
        if self._held:
            # Other connections have used the memory since.
            scratch[: len(self._held)] = self._held
            nbytes += len(self._held)
        first = bytes(scratch[: min(nbytes, len(PREFACE))])
        if first == PREFACE:
            self._listener.connections.discard(self)
            self._listener.http2.take(self.transport, nbytes)
        elif PREFACE.startswith(first):
            self._held = first
        else:
            self._listener.connections.discard(self)
            hand_over(self.transport, Connection(self._listener), nbytes)

    @property
    def busy(self) -> bool:
        return bool(self._held)

    def sweep(self, now: float) -> None:
        limits = self._listener.limits
        if now - self._began > (limits.grace_seconds if self._held else limits.idle_seconds):
            self.transport.close()
