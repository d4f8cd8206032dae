"""A listening port for HTTP/2 and the connections that came in by it.

Such connections live long, and a Service balances connections, not requests. So each is asked to connect anew every
few minutes: pods that were added get their share of the clients. When the port closes all are asked at once.
"""

import asyncio
import random
from collections.abc import Callable

from modelmill.serve.http import Limits
from modelmill.serve.http2.connection import Connection
from modelmill.serve.http2.headers import Headers
from modelmill.serve.http2.stream import Receiver, Stream
from modelmill.serve.port import ListeningPort, hand_over

CONNECTION_SECONDS = 300.0
MAX_STREAMS = 1024
MAX_SHARED_STREAMS = 256
"""Where requests are whole bodies, each of which may have to be kept until it is complete."""
Open = Callable[[Stream, Headers], Receiver | None]
"""Takes a stream that begins; None when it has been answered already."""
_chance = random.Random()
"""Not the module's own, which programs seed and expect to themselves."""


class Port(ListeningPort[Connection]):
    max_streams = MAX_STREAMS
    """Of one connection, at a time."""

    def __init__(self, open: Open, *, limits: Limits, scratch: memoryview | None = None) -> None:
        super().__init__(lambda: Connection(self), limits=limits, scratch=scratch)
        self.open = open

    def look_at(self, connection: Connection, now: float) -> None:
        super().look_at(connection, now)
        if now - connection.began > CONNECTION_SECONDS * _chance.uniform(0.9, 1.1):
            connection.leave()

    def stop_accepting(self) -> None:
        """Asks all clients to go elsewhere; what they have asked is answered first."""
        super().stop_accepting()
        for connection in tuple(self.connections):
            connection.end()

    def drop(self, connection: Connection) -> None:
        connection.transport.abort()


class SharedPort(Port):
    """Connections that another port has accepted, which also speaks HTTP/1.1; this one has no socket."""

    max_streams = MAX_SHARED_STREAMS

    def __init__(self, open: Open, *, limits: Limits, scratch: memoryview) -> None:
        """`scratch` is where what the other port has read lies."""
        super().__init__(open, limits=limits, scratch=scratch)
        self._leaving = False

    def take(self, transport: asyncio.Transport, nbytes: int) -> None:
        """A connection whose first bytes, the preface among them, are in `scratch`."""
        connection = Connection(self)
        hand_over(transport, connection, nbytes)
        if self._leaving:
            connection.end()

    def stop_accepting(self) -> None:
        super().stop_accepting()
        self._leaving = True
