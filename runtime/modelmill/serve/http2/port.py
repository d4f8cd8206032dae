"""A listening port for HTTP/2 and the connections that came in by it.

Such connections live long, and a Service balances connections, not requests. So each is asked to connect anew every
few minutes: pods that were added get their share of the clients. When the port closes all are asked at once.
"""

import asyncio
import random
import ssl
from collections.abc import Callable, Sequence

from modelmill.serve.http import Limits
from modelmill.serve.http2.connection import Connection
from modelmill.serve.http2.headers import Headers
from modelmill.serve.http2.stream import Receiver, Stream

SCRATCH_BYTES = 256 << 10
CONNECTION_SECONDS = 300.0
HANDSHAKE_SECONDS = 10.0


class Port:
    def __init__(self, open: Callable[[Stream, Headers], Receiver | None], *, limits: Limits) -> None:
        self.open = open
        self.limits = limits
        self.scratch = memoryview(bytearray(SCRATCH_BYTES))
        """All connections receive here: whatever arrives is consumed before the loop reads another socket."""
        self.connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self, hosts: Sequence[str], *, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Listens, and says on which port (0 asks for a free one)."""
        loop = asyncio.get_running_loop()
        handshake = HANDSHAKE_SECONDS if tls else None
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
                if now - connection.began > CONNECTION_SECONDS * random.uniform(0.9, 1.1):
                    connection.leave()

    @property
    def busy(self) -> int:
        return sum(connection.busy for connection in self.connections)

    def stop_accepting(self) -> None:
        """Asks all clients to go elsewhere; what they have asked is answered first."""
        if self._server:
            self._server.close()
        for connection in tuple(self.connections):
            connection.end()

    async def close(self) -> None:
        self.stop_accepting()
        if self._sweeper:
            self._sweeper.cancel()
        for connection in tuple(self.connections):
            connection.transport.abort()
        await asyncio.sleep(0)
