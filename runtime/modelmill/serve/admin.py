"""The admin port, for kubelet, operator and Prometheus: plain HTTP, no key, closed to others by NetworkPolicy.

`/livez` fails when an execution hangs or its thread died: only a restart helps. `/readyz` is true between warm-up and
drain. `/load` is what the autoscaler reads: the concurrency's integral and the uptime, to be compared between readings.
"""

import time
from collections.abc import Mapping

from modelmill.observe.concurrency import Concurrency
from modelmill.observe.metrics import Metrics
from modelmill.serve.errors import NotReady
from modelmill.serve.executor import Executor
from modelmill.serve.http import Request, Response, json_response
from modelmill.serve.inference import Inference, Phase
from modelmill.serve.router import Route


class Admin:
    def __init__(
        self,
        inference: Inference,
        *,
        executor: Executor,
        concurrency: Concurrency,
        metrics: Metrics,
        hang_seconds: float,
    ) -> None:
        self._inference = inference
        self._executor = executor
        self._concurrency = concurrency
        self._metrics = metrics
        self._hang_seconds = hang_seconds
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
        if not self._executor.alive:
            raise NotReady("a thread of the executor has died")
        # Loading and warm-up may take their time: the startup probe bounds them.
        busy = self._executor.busy_seconds()
        if self._inference.loaded and busy > self._hang_seconds:
            raise NotReady(f"an execution has been running for {busy:.1f} s, more than {self._hang_seconds:g} s")
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
