"""A serving pod whose model is generative: the public port and the admin port are ours, the answers are vLLM's.

    start   both ports listen; the model is not ready
    load    fetch the version, start vLLM on a socket of this pod's own, wait until it is healthy
    drain   as every server's: not ready, still answering; then the requests in flight; vLLM ends last

torch is never imported in this process: vLLM's own has all of the memory.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelmill.contract.servicefile import ServiceFile
from modelmill.observe.concurrency import Concurrency
from modelmill.observe.metrics import Metrics
from modelmill.serve import channel
from modelmill.serve.auth import ApiKeys
from modelmill.serve.drain import drain
from modelmill.serve.errors import NotFound, NotReady, Overloaded
from modelmill.serve.frontdoor import FrontDoor, plain_handler
from modelmill.serve.http import Limits, Request, Response, json_response
from modelmill.serve.inference import Inference, Phase
from modelmill.serve.listener import Listener
from modelmill.serve.phases import Phases
from modelmill.serve.router import OPENAI, Route
from modelmill.serve.server import CERTIFICATE_LOOK_SECONDS, every, every_address
from modelmill.serve.side import SideListener
from modelmill.serve.tls import Certificate
from modelmill.serve.vllm import command
from modelmill.serve.vllm.admin import VllmAdmin
from modelmill.serve.vllm.child import Child
from modelmill.serve.vllm.passage import Forward
from modelmill.serve.vllm.probe import HEALTH, ask

HEALTH_LOOK_SECONDS = 0.2
PASSED = (
    ("GET", "/v1/models"),
    *(("POST", path) for path in ("/v1/completions", "/v1/chat/completions", "/v1/responses", "/tokenize", "/detokenize")),
)
"""Nothing else of vLLM's is reached from outside: it has paths that change what is served."""
OTHERS = ("/v1/models/{model}:predict", "/v2/models/{model}/infer", "/v1/embeddings")
"""What other models answer."""


class VllmServer:
    def __init__(self, service: ServiceFile) -> None:
        self.service = service
        self.metrics = Metrics()
        self.inference = Inference(service)
        self._scratch = tempfile.TemporaryDirectory(prefix="modelmill-", ignore_cleanup_errors=True)
        self._folder = Path(self._scratch.name)
        # Short: the path of a socket has a hundred characters at most.
        self._socket = self._folder / "vllm"
        self._child: Child | None = None
        self._closed = False
        self._concurrency = Concurrency(time.monotonic)
        self._certificate = Certificate(service.tls) if service.tls else None
        self._admin = VllmAdmin(
            self.inference, concurrency=self._concurrency, metrics=self.metrics, live=self._live, socket=self._socket
        )
        self._door = door = FrontDoor(
            (
                Route(method="GET", path="/", endpoint=_alive),
                *(Route(method=method, path=path, endpoint=self._pass_on, protocol=OPENAI) for method, path in PASSED),
                *(Route(method="POST", path=path, endpoint=self._other) for path in OTHERS),
            ),
            inference=self.inference,
            keys=ApiKeys(Path(service.api_key_file)) if service.api_key_file else None,
            concurrency=self._concurrency,
            metrics=self.metrics,
            max_body_bytes=service.max_request_bytes,
        )
        self._main = Listener(door, limits=Limits(max_body_bytes=service.max_request_bytes), unanswered=door.unanswered)
        self._side = SideListener(plain_handler(self._admin.routes()))
        self._tasks: list[asyncio.Task[None]] = []
        self.port, self.admin_port = service.port, service.admin_port

    async def start(self, hosts: Sequence[str] = ()) -> None:
        """Opens the ports on these addresses; on all there are unless told."""
        hosts = hosts or every_address()
        self.admin_port = await self._side.start(hosts, port=self.service.admin_port)
        tls = self._certificate.context if self._certificate else None
        self.port = await self._main.start(hosts, port=self.service.port, tls=tls)
        if self._certificate:
            self._spawn(every(CERTIFICATE_LOOK_SECONDS, self._certificate.refresh))

    async def load(self) -> None:
        """Returns when vLLM is healthy; raises what went wrong."""
        service, phases = self.service, Phases(self.metrics)
        # First: what cannot be served need not be fetched.
        program = command.program(service, path=os.environ.get("PATH", ""))
        with phases.timed("fetch"):
            model = await asyncio.to_thread(self._fetch)
        arguments = command.arguments(service, model, socket=self._socket, further=os.environ.get(command.ARGUMENTS, ""))
        with phases.timed("load"):
            environment = command.environment(os.environ, home=self._folder)
            self._child = await Child.start(program, arguments, environment=environment, folder=self._folder)
            if self._closed:
                await self._child.stop()
            while await ask(self._socket, HEALTH) is None:
                if not self._child.alive:
                    raise await self._child.ended()
                await asyncio.sleep(HEALTH_LOOK_SECONDS)
        self.metrics.model_info.labels(service.model, service.version, service.variant, service.digest).set(1)
        if self.inference.phase is Phase.LOADING:
            self.inference.phase = Phase.READY
        if service.channel:
            self._spawn(channel.watch(lambda: channel.current_version(service), tell=self._tell_channel))

    def _fetch(self) -> Path:
        from modelmill.artifact.generative import open_folder
        from modelmill.artifact.registry import Registry

        service = self.service
        registry = Registry(url=service.registry, namespace=service.namespace)
        return open_folder(registry, model=service.model, version=service.version, digest=service.digest, into=self._folder)

    async def failed(self) -> Exception:
        """Waits until nothing can be served any more: vLLM has ended by itself."""
        assert self._child
        return await self._child.ended()

    def _live(self) -> None:
        if self._child and not self._child.alive:
            raise NotReady("vLLM has ended")

    def _tell_channel(self, version: int | None) -> None:
        self._admin.channel_version = version

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(work))

    # --- requests

    def _pass_on(self, request: Request, values: Mapping[str, str]) -> Forward:
        service = self.service
        if self.inference.phase is Phase.LOADING:
            raise NotReady(f"model {service.model!r} is not ready: it is still loading")
        most = service.container_concurrency and service.container_concurrency + service.queue_limit
        if most and self._concurrency.in_flight >= most:
            self.metrics.shed.inc()
            raise Overloaded(f"{most} requests are being handled or wait: come back later")
        # A HEAD is answered like a GET, without what it is not sent.
        method = "POST" if request.method == "POST" else "GET"
        return Forward(socket=self._socket, method=method, request=request, timeout_seconds=service.timeout_seconds)

    def _other(self, request: Request, values: Mapping[str, str]) -> Response:
        raise NotFound(
            f"model {self.service.model!r} is generative: it has no tensors to send, and speaks OpenAI's protocol, "
            f"POST /v1/chat/completions or /v1/completions"
        )

    # --- the end

    async def drain(self, *, propagation_seconds: float) -> int:
        """Stops serving without failing anybody; returns how many requests had to be left unanswered."""
        self.inference.phase = Phase.DRAINING
        self._main.draining = True
        return await drain((self._main,), propagation_seconds=propagation_seconds, in_flight_seconds=self.service.drain_seconds)

    async def close(self) -> None:
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, self._main.close(), return_exceptions=True)
        if self._child:
            await self._child.stop()
        # Last: until then it is alive.
        await self._side.close()
        self._scratch.cleanup()


def _alive(request: Request, values: Mapping[str, str]) -> Response:
    return json_response({"status": "alive"})
