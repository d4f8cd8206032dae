"""The gRPC port put together: HTTP/2 connections, the door that every call passes, inference and health behind it."""

import asyncio
from collections.abc import Sequence

from modelmill.contract.servicefile import ServiceFile, Tls
from modelmill.observe.concurrency import Concurrency
from modelmill.observe.metrics import Metrics
from modelmill.serve.auth import ApiKeys
from modelmill.serve.grpc.door import GrpcDoor
from modelmill.serve.grpc.exchange import Accounts
from modelmill.serve.grpc.health import Health
from modelmill.serve.grpc.methods import SERVICE, InferenceService
from modelmill.serve.http import Limits
from modelmill.serve.http2.port import Port
from modelmill.serve.inference import Inference
from modelmill.serve.protocols import oip_grpc
from modelmill.serve.tls import Certificate

CERTIFICATE_LOOK_SECONDS = 10.0


class GrpcServer:
    def __init__(
        self,
        inference: Inference,
        *,
        service: ServiceFile,
        keys: ApiKeys | None,
        concurrency: Concurrency,
        metrics: Metrics,
    ) -> None:
        limits = Limits(max_body_bytes=service.max_request_bytes)
        accounts = Accounts(inference=inference, concurrency=concurrency, metrics=metrics)
        self.door = door = GrpcDoor(keys=keys, accounts=accounts, limits=limits)
        methods = InferenceService(inference, batcher=service.batcher, metrics=metrics)
        for method in methods.unary():
            door.unary(method)
        # A stream fills one batch while another runs.
        most = min(2 * service.batcher.max_batch_size, service.queue_limit)
        door.stream(methods.stream(), error=oip_grpc.stream_error, most=most)
        door.health(Health(inference, services=(SERVICE,)))
        self._port = Port(door, limits=limits)
        self._renewal: asyncio.Task[None] | None = None

    async def start(self, hosts: Sequence[str], *, port: int, tls: Tls | None = None) -> int:
        """Listens, and says on which port (0 asks for a free one)."""
        if tls is None:
            return await self._port.start(hosts, port=port)
        certificate = Certificate(tls)
        certificate.context.set_alpn_protocols(["h2"])
        self._renewal = asyncio.get_running_loop().create_task(_renew(certificate))
        return await self._port.start(hosts, port=port, tls=certificate.context)

    @property
    def busy(self) -> int:
        """Connections that wait for answers, or may still send requests."""
        return self._port.busy

    def stop_accepting(self) -> None:
        self._port.stop_accepting()

    async def close(self) -> None:
        if self._renewal:
            self._renewal.cancel()
        await self._port.close()


async def _renew(certificate: Certificate) -> None:
    while True:
        await asyncio.sleep(CERTIFICATE_LOOK_SECONDS)
        certificate.refresh()
