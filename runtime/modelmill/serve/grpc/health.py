"""grpc.health.v1: the truth about readiness, for gRPC probes and load balancers."""

import asyncio

from modelmill.serve.errors import BadRequest, NotFound, Refusal
from modelmill.serve.grpc.calls import refuse
from modelmill.serve.grpc.exchange import Method
from modelmill.serve.grpc.framing import Messages, framed
from modelmill.serve.grpc.methods import plain
from modelmill.serve.grpc.status import HEAD, LEAVING, refused
from modelmill.serve.http import Limits
from modelmill.serve.http2 import hpack
from modelmill.serve.http2.headers import Headers
from modelmill.serve.http2.stream import Stream
from modelmill.serve.inference import Inference, Phase
from modelmill.serve.protocols.wire import health as m
from modelmill.serve.protocols.wire.pool import decoded

SERVICE = m.DESCRIPTOR.services_by_name["Health"].full_name
CHECK, WATCH = f"/{SERVICE}/Check", f"/{SERVICE}/Watch"
WATCH_SECONDS = 0.25
"""How often watchers learn of a change."""
States = m.HealthCheckResponse


class Health:
    def __init__(self, inference: Inference, *, services: tuple[str, ...]) -> None:
        self._inference = inference
        self._services = ("", *services)

    def check(self) -> Method:
        return Method(path=CHECK, endpoint=plain(m.HealthCheckRequest, self._check), open=True)

    def _check(self, request: m.HealthCheckRequest) -> m.HealthCheckResponse:
        status = self.status(request.service)
        if status == States.SERVICE_UNKNOWN:
            raise NotFound(f"there is no service {request.service!r} here")
        return m.HealthCheckResponse(status=status)

    def status(self, service: str) -> m.HealthCheckResponse.ServingStatus:
        if service not in self._services:
            return States.SERVICE_UNKNOWN
        return States.SERVING if self._inference.phase is Phase.READY else States.NOT_SERVING


class Watch:
    """A watcher's call: told the status, and again when it has changed."""

    def __init__(self, stream: Stream, headers: Headers, *, health: Health, limits: Limits) -> None:
        self._stream = stream
        self._health = health
        self._messages = Messages(headers, max_bytes=limits.max_body_bytes)
        self._service: str | None = None
        self._last: m.HealthCheckResponse.ServingStatus | None = None
        self._timer: asyncio.TimerHandle | None = None

    def data(self, piece: memoryview) -> None:
        self._stream.consumed(len(piece))
        try:
            for message in self._messages.feed(piece):
                self._service = decoded(m.HealthCheckRequest, message).service
        except Refusal as refusal:
            refuse(self._stream, refused(refusal))

    def end(self) -> None:
        if self._service is None:
            refuse(self._stream, refused(BadRequest("the call ended without a complete message")))
        else:
            self._look(self._service)

    def _look(self, service: str) -> None:
        status = self._health.status(service)
        if status != self._last and not self._stream.blocked:
            message = m.HealthCheckResponse(status=status).SerializeToString()
            self._stream.send(headers=HEAD if self._last is None else None, data=framed([message]))
            self._last = status
        self._timer = asyncio.get_running_loop().call_later(WATCH_SECONDS, self._look, service)

    def gone(self) -> None:
        if self._timer:
            self._timer.cancel()

    def leave(self) -> None:
        self.gone()
        if self._last is None:
            refuse(self._stream, LEAVING)
        else:
            self._stream.send(trailers=hpack.encode(LEAVING.fields()))

    def overdue(self) -> bool:
        return False

    def drained(self) -> None:
        """The next look comes by itself."""
