"""A listening port and the connections that came in by it, whatever they speak."""

import asyncio
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from modelmill.serve.http import Limits

SCRATCH_BYTES = 256 << 10
HANDSHAKE_SECONDS = 10.0
BACKLOG = 1024


class PortConnection(asyncio.BufferedProtocol, ABC):
    transport: asyncio.Transport

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Something is under way that must not be lost."""

    @abstractmethod
    def sweep(self, now: float) -> None:
        """Called about once a second: everything that depends on time passing without bytes."""


def hand_over(transport: asyncio.Transport, connection: PortConnection, nbytes: int) -> None:
    """To whom the transport belongs from now on; it finds the bytes that have come where it would have received them."""
    transport.set_protocol(connection)
    connection.connection_made(transport)
    connection.buffer_updated(nbytes)


C = TypeVar("C", bound=PortConnection)


class ListeningPort(Generic[C]):
    def __init__(self, connect: Callable[[], C], *, limits: Limits, scratch: memoryview | None = None) -> None:
        self.limits = limits
        self.connections: set[C] = set()
        self.scratch = memoryview(bytearray(SCRATCH_BYTES)) if scratch is None else scratch
        """All connections receive here: whatever arrives is consumed before the loop reads another socket."""
        self._connect = connect
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self, hosts: Sequence[str], *, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Listens, and says on which port (0 asks for a free one)."""
        loop = asyncio.get_running_loop()
        handshake = HANDSHAKE_SECONDS if tls else None
        self._server = await loop.create_server(
            self._connect, list(hosts), port, ssl=tls, backlog=BACKLOG, ssl_handshake_timeout=handshake
        )
        self._sweeper = loop.create_task(self._sweep())
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self.limits.sweep_seconds)
            self.sweep(loop.time())

    def sweep(self, now: float) -> None:
        """Called about once a second."""
        for connection in tuple(self.connections):
            self.look_at(connection, now)

    def look_at(self, connection: C, now: float) -> None:
        """Called about once a second for each."""
        connection.sweep(now)

    @property
    def busy(self) -> int:
        return sum(connection.busy for connection in self.connections)

    def stop_accepting(self) -> None:
        if self._server:
            self._server.close()

    async def close(self) -> None:
        self.stop_accepting()
        if self._sweeper:
            self._sweeper.cancel()
        for connection in tuple(self.connections):
            self.drop(connection)
        await asyncio.sleep(0)

    def drop(self, connection: C) -> None:
        connection.transport.close()
