"""The admin port of a pod that runs vLLM: alive while its process is, ready while it says that it is healthy."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from modelmill.observe.concurrency import Concurrency
from modelmill.observe.metrics import Metrics
from modelmill.serve.admin import Admin
from modelmill.serve.errors import NotReady
from modelmill.serve.frontdoor import refused
from modelmill.serve.http import Request, Response
from modelmill.serve.inference import Inference
from modelmill.serve.later import Later
from modelmill.serve.router import Route
from modelmill.serve.vllm.probe import HEALTH, METRICS, ask, own_families


class VllmAdmin(Admin):
    def __init__(
        self,
        inference: Inference,
        *,
        concurrency: Concurrency,
        metrics: Metrics,
        live: Callable[[], None],
        socket: Path,
    ) -> None:
        super().__init__(inference, concurrency=concurrency, metrics=metrics, live=live)
        self._socket = socket

    def routes(self) -> tuple[Route, ...]:
        ours = {"/metrics": self.both_metrics, "/readyz": self.healthy}
        return tuple(replace(route, endpoint=ours.get(route.path, route.endpoint)) for route in super().routes())

    def both_metrics(self, request: Request, values: Mapping[str, str]) -> Later:
        return Later(self._with_vllm(self.metrics(request, values)))

    async def _with_vllm(self, own: Response) -> Response:
        text = await ask(self._socket, METRICS)
        return replace(own, body=(*own.body, own_families(text or b"")))

    def healthy(self, request: Request, values: Mapping[str, str]) -> Later:
        return Later(self._healthy(self.readyz(request, values)))

    async def _healthy(self, ready: Response) -> Response:
        return ready if await ask(self._socket, HEALTH) is not None else refused(NotReady("vLLM does not say that it is healthy"))
