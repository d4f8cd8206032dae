"""A listening port for HTTP/1.1 and HTTP/2, with one handler behind both.

Draining is a property of the port: from then on every answer of HTTP/1.1 carries `Connection: close`, while new connections
are still accepted until `stop_accepting`, because endpoints take seconds to leave every proxy's list. HTTP/2's connections
are asked to go elsewhere then.
"""

from collections.abc import Callable

from modelmill.serve.connection import Connection
from modelmill.serve.fastpath import FastPath
from modelmill.serve.heads import Heads
from modelmill.serve.http import Handler, Limits
from modelmill.serve.http2.headers import Headers
from modelmill.serve.http2.port import Open, SharedPort
from modelmill.serve.http2.stream import Receiver, Stream
from modelmill.serve.opening import Opening
from modelmill.serve.port import ListeningPort
from modelmill.serve.rest_stream import RestStream

GRPC = "application/grpc"


class Listener(ListeningPort[Connection | Opening]):
    def __init__(self, handler: Handler, *, limits: Limits, unanswered: Callable[[int], None], grpc: Open | None = None) -> None:
        """`grpc` takes the streams of HTTP/2 that are calls."""
        super().__init__(lambda: Opening(self), limits=limits)
        self.handler = handler
        self.heads = Heads()
        self.unanswered = unanswered
        """Told the status of every request that ended before the handler saw it, or because its client went away."""
        self.fast: FastPath | None = None
        self.draining = False
        self.http2 = SharedPort(self._open, limits=limits, scratch=self.scratch)
        self._grpc = grpc

    def _open(self, stream: Stream, headers: Headers) -> Receiver | None:
        if self._grpc and headers.get("content-type", "").startswith(GRPC):
            return self._grpc(stream, headers)
        return RestStream(stream, headers, handler=self.handler, limits=self.limits, unanswered=self.unanswered)

    def sweep(self, now: float) -> None:
        super().sweep(now)
        self.http2.sweep(now)

    @property
    def busy(self) -> int:
        return super().busy + self.http2.busy

    def stop_accepting(self) -> None:
        super().stop_accepting()
        self.http2.stop_accepting()

    async def close(self) -> None:
        await self.http2.close()
        await super().close()
