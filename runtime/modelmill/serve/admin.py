"""The admin port, for kubelet, operator and Prometheus: plain HTTP, no key, closed to others by NetworkPolicy.

`/livez` fails when only a restart helps: an execution hangs or its thread died. `/readyz` is true between warm-up and
drain. `/load` is what the autoscaler reads: the concurrency's integral and the uptime, to be compared between readings.
"""

import time
from collections.abc import Callable, Mapping

from modelmill.observe.concurrency import Concurrency
from modelmill.observe.metrics import Metrics
from modelmill.serve.errors import NotReady
from modelmill.serve.http import Request, Response, json_response
from modelmill.serve.inference import Inference, Phase
from modelmill.serve.router import Route


class Admin:
    def __init__(
        self,
        inference: Inference,
        *,
        concurrency: Concurrency,
        metrics: Metrics,
        live: Callable[[], None],
    ) -> None:
        """`live` raises when only a restart helps."""
        self._inference = inference
        self._live = live
        self._concurrency = concurrency
        self._metrics = metrics
        self._started = time.monotonic()
        self.channel_version: int | None = None

    def routes(self) -> tuple[Route, ...]:
        paths = {"/metrics": self.metrics, "/livez": self.livez, "/readyz": self.readyz, "/load": self.load}
        return tuple(Route(method="GET", path=path, endpoint=endpoint) for path, endpoint in paths.items())

    def metrics(self, request: Request, values: Mapping[str, str]) -> Response:
        self._metrics.ready.set(self._inference.phase is Phase.READY)
        self._metrics.in_flight.set(self._concurrency.in_flight)
        return Response(body=(self._metrics.text(),), content_type="text/plain; version=0.0.4; charset=utf-8")

    def livez(self, request: Request, values: Mapping[str, str]) -> Response:
        self._live()
        return json_response({"live": True})

    def readyz(self, request: Request, values: Mapping[str, str]) -> Response:
        if self._inference.phase is not Phase.READY:
            raise NotReady(f"the server is {self._inference.phase.value}")
        return json_response({"ready": True})

    def load(self, request: Request, values: Mapping[str, str]) -> Response:
        return json_response(
            {
                "concurrencySeconds": self._concurrency.seconds,
                "inflight": self._concurrency.in_flight,
                "requests": self._concurrency.requests,
                "uptimeSeconds": time.monotonic() - self._started,
                "channelVersion": self.channel_version,
            }
        )
