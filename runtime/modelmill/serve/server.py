"""The serving pod: ports, model, batcher and watchers put together, and the order in which they start and stop.

    start   the admin port and the serving port listen; both say that the model is not ready
    load    fetch, load and warm up in the executor's thread; then requests are answered
    drain   not ready any more, still answering; then no new connections; then the last requests

The model comes from a function, so that the same server serves an artifact in a pod and a module in a test.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from modelmill.contract.servicefile import ServiceFile
from modelmill.observe import triton
from modelmill.observe.concurrency import Concurrency
from modelmill.observe.metrics import Metrics
from modelmill.serve import channel
from modelmill.serve.admin import Admin
from modelmill.serve.auth import ApiKeys
from modelmill.serve.batcher import Batcher
from modelmill.serve.cpus import usable_cpus
from modelmill.serve.drain import drain
from modelmill.serve.errors import NotReady
from modelmill.serve.executor import Executor
from modelmill.serve.fastpath import FastPath, fast_path
from modelmill.serve.former import Policy
from modelmill.serve.frontdoor import FrontDoor, plain_handler
from modelmill.serve.grpc_server import GrpcServer
from modelmill.serve.http import Limits, Request, Response, json_response
from modelmill.serve.inference import Inference, Phase
from modelmill.serve.listener import Listener
from modelmill.serve.nodes import nodes, shares, stay
from modelmill.serve.phases import Phases
from modelmill.serve.placement import Placement
from modelmill.serve.protocols import embeddings, oip_http, openapi, repository, v1
from modelmill.serve.router import Route
from modelmill.serve.side import SideListener
from modelmill.serve.tls import Certificate

if TYPE_CHECKING:
    from modelmill.serve.model import TorchModel
    from modelmill.serve.processing import ProcessedModel
    from modelmill.serve.runner import Runner
    from modelmill.serve.warmup import Warm

CERTIFICATE_LOOK_SECONDS = 10.0
IPV6_ADDRESSES = Path("/proc/net/if_inet6")
"""Not there or empty where the kernel has no IPv6."""


class Load(Protocol):
    def __call__(self, service: ServiceFile, *, phases: Phases, into: Path) -> "TorchModel | ProcessedModel": ...


class Server:
    def __init__(self, service: ServiceFile, *, load: Load) -> None:
        self.service = service
        self.metrics = Metrics()
        self.inference = Inference(service)
        self._load = load
        self._executor = Executor()
        self._scratch = tempfile.TemporaryDirectory(prefix="modelmill-", ignore_cleanup_errors=True)
        self._concurrency = Concurrency(time.monotonic)
        self._certificate = Certificate(service.tls) if service.tls else None
        self._admin = Admin(
            self.inference,
            concurrency=self._concurrency,
            metrics=self.metrics,
            live=self._live,
        )
        keys = ApiKeys(Path(service.api_key_file)) if service.api_key_file else None
        routes = (
            Route(method="GET", path="/", endpoint=_alive),
            *v1.routes(self.inference),
            *embeddings.routes(self.inference),
            # Before the next ones: /v2/models/stats is not a model.
            *repository.routes(self.inference, batcher=service.batcher, metrics=self.metrics),
            *oip_http.routes(self.inference),
        )
        self._door = door = FrontDoor(
            openapi.documented(routes, inference=self.inference, keys=keys is not None),
            inference=self.inference,
            keys=keys,
            concurrency=self._concurrency,
            metrics=self.metrics,
            max_body_bytes=service.max_request_bytes,
        )
        self._grpc = GrpcServer(self.inference, service=service, keys=keys, concurrency=self._concurrency, metrics=self.metrics)
        limits = Limits(max_body_bytes=service.max_request_bytes)
        self._main = Listener(door, limits=limits, unanswered=door.unanswered, grpc=self._grpc.door)
        self._side = SideListener(plain_handler(self._admin.routes()))
        self._tasks: list[asyncio.Task[None]] = []
        self.port = service.port
        self.admin_port = service.admin_port
        self.grpc_port = service.grpc_port

    async def start(self, hosts: Sequence[str] = ()) -> None:
        """Opens the ports on these addresses; on all there are unless told."""
        hosts = hosts or every_address()
        self.admin_port = await self._side.start(hosts, port=self.service.admin_port)
        tls = self._certificate.context if self._certificate else None
        self.port = await self._main.start(hosts, port=self.service.port, tls=tls)
        self.grpc_port = await self._grpc.start(hosts, port=self.service.grpc_port, tls=self.service.tls)
        if self._certificate:
            self._spawn(every(CERTIFICATE_LOOK_SECONDS, self._certificate.refresh))

    async def load(self) -> None:
        """Returns when requests are answered; raises what went wrong."""
        service, phases = self.service, Phases(self.metrics)
        model, warm, run = await self._executor.call(lambda: self._loaded_and_warm(phases))
        import torch

        # torch keeps the number by thread, and short batches run in this one.
        torch.set_num_threads(1)
        places = shares(warm.instances, nodes())

        def prepare(number: int) -> None:
            stay(places[number])
            torch.set_num_threads(warm.threads)

        await self._executor.call(lambda: prepare(0))
        self._executor.grow(warm.instances, prepare=prepare)
        policy = Policy(
            max_rows=warm.rows,
            max_latency_seconds=service.batcher.max_latency_seconds,
            queue_limit=service.queue_limit,
            max_items=service.container_concurrency,
        )
        # A device computes while the thread waits: that is never work for the loop.
        placement = Placement(warm.seconds) if model.device.type == "cpu" else Placement(warm.seconds, limit_seconds=0)
        batcher = Batcher(
            run,
            executor=self._executor,
            policy=policy,
            timeout_seconds=service.timeout_seconds,
            metrics=self.metrics,
            placement=placement,
            instances=warm.instances,
        )
        for way, count in model.module.ways.items():
            self.metrics.weights.labels(way).set(count)
        self.metrics.model_info.labels(service.model, service.version, service.variant, service.digest).set(1)
        if os.environ.get(triton.ENVIRONMENT) == "1":
            triton.TritonNames(self.metrics, model=service.model, version=str(service.version))
        self.inference.open(batcher, signature=model.signature)
        self._main.fast = fast_path(
            lambda: FastPath(
                self._door, batcher, model.signature, scratch=self._main.scratch, most_body_bytes=service.max_request_bytes
            )
        )
        if service.channel:
            self._spawn(channel.watch(lambda: channel.current_version(service), tell=self._tell_channel))

    def _loaded_and_warm(self, phases: Phases) -> "tuple[TorchModel | ProcessedModel, Warm, Runner]":
        model = self._load(self.service, phases=phases, into=Path(self._scratch.name))
        with phases.timed("warm-up"):
            from modelmill.serve.warmup import warm_up

            warm = warm_up(
                model.module,
                max_rows=self.service.batcher.max_batch_size,
                cpus=usable_cpus(),
                instances=self.service.batcher.instances,
            )
            model.try_out()
            return model, warm, self._runner(model, warm.instances)

    def _runner(self, model: "TorchModel | ProcessedModel", instances: int) -> "Runner":
        from modelmill.serve.gpu.model import GpuModel
        from modelmill.serve.gpu.series import GraphSeries
        from modelmill.serve.instances import Instances, copies
        from modelmill.serve.runner import Runner

        models = copies(model, instances)
        if on_gpu := [one.module for one in models if isinstance(one.module, GpuModel)]:
            GraphSeries(on_gpu, registry=self.metrics.registry)
        # Where a recipe's own steps come first, they make one batch of all.
        together = [one.together for one in models if isinstance(one, GpuModel)]
        return Runner(Instances(models), signature=model.signature, together=Instances(together) if together else None)

    def _live(self) -> None:
        if not self._executor.alive:
            raise NotReady("a thread of the executor has died")
        # Loading and warm-up may take their time: the startup probe bounds them.
        busy, limit = self._executor.busy_seconds(), self.service.hang_seconds
        if self.inference.loaded and busy > limit:
            raise NotReady(f"an execution has been running for {busy:.1f} s, more than {limit:g} s")

    async def failed(self) -> Exception:
        """Waits until nothing can be served any more, which here only the kubelet finds out."""
        never: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        return await never

    def _tell_channel(self, version: int | None) -> None:
        self._admin.channel_version = version

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(work))

    async def drain(self, *, propagation_seconds: float) -> int:
        """Stops serving without failing anybody; returns how many requests had to be left unanswered."""
        self.inference.phase = Phase.DRAINING
        self._main.draining = True
        ports = self._main, self._grpc
        return await drain(ports, propagation_seconds=propagation_seconds, in_flight_seconds=self.service.drain_seconds)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, self._main.close(), self._grpc.close(), self._side.close(), return_exceptions=True)
        self._executor.stop()
        self._scratch.cleanup()


def every_address() -> tuple[str, ...]:
    # One socket a family: the loop makes IPv6 sockets that do not take IPv4.
    return ("0.0.0.0", "::") if IPV6_ADDRESSES.exists() and IPV6_ADDRESSES.read_text() else ("0.0.0.0",)


def _alive(request: Request, values: object) -> Response:
    return json_response({"status": "alive"})


async def every(seconds: float, work: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(seconds)
        work()
