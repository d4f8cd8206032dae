"""A real server on loopback for tests: its own thread and event loop, tiny modules, plain sockets as clients."""

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import uvloop

from modelmill.contract.servicefile import Batcher, ServiceFile
from modelmill.serve.model import TorchModel
from modelmill.serve.phases import Phases
from modelmill.serve.server import Load, Server
from modelmill.signature import Signature, Tensor
from tests.unit.serve.curl import curl

T = TypeVar("T")
DOUBLE = Signature(inputs=(Tensor(name="x", shape=(-1, 3)),), outputs=(Tensor(name="y", shape=(-1, 3)),))
MIXED = Signature(
    inputs=(Tensor(name="a", datatype="FP32", shape=(-1, -1)), Tensor(name="k", datatype="INT64", shape=(-1,))),
    outputs=(Tensor(name="sum", datatype="FP32", shape=(-1,)), Tensor(name="next", datatype="INT64", shape=(-1,))),
)


def double(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def mixed(a: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return a.sum(dim=1) * k, k + 1


def service(**changes: Any) -> ServiceFile:
    fixed: dict[str, Any] = {
        "namespace": "default",
        "service": "digits",
        "model": "m",
        "version": 3,
        "digest": "sha256:0",
        "variant": "dense",
        "registry": "file:///nowhere",
        "port": 0,
        "admin_port": 0,
        "grpc_port": 0,
    }
    return ServiceFile(**{**fixed, **changes})


class Running:
    """A server under way, as its clients see it."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self.server = server
        self.curl: str | None = None
        """The version of HTTP that curl speaks in `exchange`; without one, Python's own client is used."""
        self._loop = loop

    def on_loop(self, work: Coroutine[Any, Any, T], *, timeout: float = 30.0) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.server.port

    def ask(
        self, method: str, path: str, body: bytes | dict[str, Any] | None = None, *, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        status, content, _ = self.exchange(method, path, body, headers=headers)
        return status, json.loads(content) if content else None

    def exchange(
        self,
        method: str,
        path: str,
        body: bytes | dict[str, Any] | None = None,
        *,
        headers: dict[str, str] | None = None,
        admin: bool = False,
    ) -> tuple[int, bytes, dict[str, str]]:
        port = self.server.admin_port if admin else self.server.port
        content = json.dumps(body).encode() if isinstance(body, dict) else body
        if self.curl:
            return curl(self.curl, method, f"http://127.0.0.1:{port}{path}", content, headers=headers)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request(method, path, body=content, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}
        finally:
            connection.close()

    def admin(self, path: str) -> tuple[int, Any]:
        status, content, _ = self.exchange("GET", path, admin=True)
        return status, json.loads(content)

    def predict(self, instances: Any) -> tuple[int, Any]:
        return self.ask("POST", "/v1/models/m:predict", {"instances": instances})

    def metric(self, name: str, **labels: str) -> float:
        return self.server.metrics.registry.get_sample_value(f"modelmill_serve_{name}", labels) or 0.0

    def requests_by_code(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for family in self.server.metrics.registry.collect():
            for sample in family.samples:
                if sample.name == "modelmill_serve_requests_total":
                    code = sample.labels["code"]
                    counts[code] = counts.get(code, 0) + int(sample.value)
        return counts


@contextmanager
def running(
    module: Callable[..., Any] = double,
    *,
    signature: Signature = DOUBLE,
    load: bool = True,
    loader: Load | None = None,
    batcher_rows: int = 32,
    instances: int = 1,
    **changes: Any,
) -> Iterator[Running]:
    """A server that serves `module`; `changes` are fields of the service file."""
    file = service(batcher=Batcher(max_batch_size=batcher_rows, instances=instances), **changes)

    def loaded(service: ServiceFile, *, phases: Phases, into: Path) -> TorchModel:
        torch.set_num_threads(1)
        with phases.timed("load"):
            return TorchModel(module, signature=signature)

    with in_thread(lambda: Server(file, load=loader or loaded), load=load) as handle:
        yield handle


@contextmanager
def in_thread(make: Callable[[], Server], *, load: bool) -> Iterator[Running]:
    """What `make` returns, in a loop and a thread of its own; it must have left nothing unhandled."""
    loop = uvloop.new_event_loop()
    unexpected: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: unexpected.append(context))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> Server:
        server = make()
        await server.start(("127.0.0.1",))
        if load:
            await server.load()
        return server

    handle = Running(asyncio.run_coroutine_threadsafe(start(), loop).result(60), loop)
    try:
        yield handle
    finally:
        handle.on_loop(handle.server.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
    assert not unexpected, unexpected


def raw(address: tuple[str, int], data: bytes, *, timeout: float = 10.0) -> bytes:
    """Sends bytes and returns everything until the server closes."""
    with socket.create_connection(address, timeout=timeout) as connection:
        connection.sendall(data)
        pieces = []
        while piece := connection.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)


def post(path: str, body: bytes, *extra: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}", *extra, "", ""]
    return "\r\n".join(lines).encode() + body
