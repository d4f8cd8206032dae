"""A listening port and the connections that came in by it.

Draining is a property of the port: from then on every answer carries `Connection: close`, while new connections are
still accepted until `stop_accepting`, because endpoints take seconds to leave every proxy's list.
"""

import asyncio
import ssl
from collections.abc import Callable, Sequence

from modelmill.serve.connection import Connection
from modelmill.serve.http import Handler, Limits

SCRATCH_BYTES = 256 << 10


class Listener:
    def __init__(self, handler: Handler, *, limits: Limits, unanswered: Callable[[int], None]) -> None:
        self.handler = handler
        self.limits = limits
        self.unanswered = unanswered
        """Told the status of every request that ended before the handler saw it, or because its client went away."""
        self.connections: set[Connection] = set()
        self.scratch = memoryview(bytearray(SCRATCH_BYTES))
        """All connections receive here: whatever arrives is consumed before the loop reads another socket."""
        self.draining = False
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self, hosts: Sequence[str], *, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Listens, and says on which port (0 asks for a free one)."""
        loop = asyncio.get_running_loop()
        handshake = 10.0 if tls else None
        self._server = await loop.create_server(
            lambda: Connection(self), list(hosts), port, ssl=tls, backlog=1024, ssl_handshake_timeout=handshake
        )
        self._sweeper = loop.create_task(self._sweep())
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self.limits.sweep_seconds)
            now = loop.time()
            for connection in tuple(self.connections):
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
            connection.transport.close()
        await asyncio.sleep(0)
