"""A reverse proxy between an operator and the API server that misbehaves on demand.

It speaks TLS on both sides, streams watches through, notes every write, and can: refuse connections, answer with a status
instead of asking the server, cut streams, and say an ERROR into every watch that is open. `on_write` is called before and
after each write, so that a test can kill the operator exactly there. It runs in a thread; its methods may be called from any.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp
from aiohttp import web

from tests.cluster.controlplane import ControlPlane

HOP_BY_HOP = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}


@dataclass(frozen=True, kw_only=True)
class Write:
    """One request that could change something, when it came."""

    method: str
    path: str
    at: float
    status: int | None = None


Moment = Literal["before", "after"]
Fault = Callable[[web.Request], web.Response | None]
OnWrite = Callable[[Moment, int, web.Request], None]


class Proxy:
    """One proxy for one operator."""

    def __init__(self, plane: ControlPlane, *, user: str) -> None:
        self._plane, self._user = plane, user
        self._loop = asyncio.new_event_loop()
        self._streams: set[web.StreamResponse] = set()
        self._transports: set[asyncio.BaseTransport] = set()
        self.refusing = False
        self.fault: Fault = lambda request: None
        self.on_write: OnWrite = lambda moment, number, request: None
        self.writes: list[Write] = []
        self.port = 0

    @property
    def kubeconfig(self) -> Path:
        """For the operator: leads to this proxy."""
        name = f"proxied-{self._user}-{self.port}"
        server = f"https://127.0.0.1:{self.port}"
        return self._plane.authority.kubeconfig(name, server=server, user=self._user, groups=["system:masters"])

    def refuse(self, refusing: bool = True) -> None:
        """Connections are reset, the open ones too, until it is called with False."""
        self.refusing = refusing
        if refusing:
            self.cut()

    def cut(self) -> None:
        """Every open connection is reset."""
        self._loop.call_soon_threadsafe(lambda: [transport.abort() for transport in list(self._transports)])  # type: ignore[attr-defined]  # write transports have it

    def say(self, event: dict[str, Any]) -> None:
        """Every open watch gets this event."""
        line = json.dumps(event).encode() + b"\n"

        async def write() -> None:
            await asyncio.gather(*(stream.write(line) for stream in list(self._streams)), return_exceptions=True)

        asyncio.run_coroutine_threadsafe(write(), self._loop).result(timeout=10)

    def watches(self) -> int:
        """How many watches are open."""
        return len(self._streams)

    def product_writes(self) -> list[Write]:
        """The writes but those of the Lease."""
        return [write for write in self.writes if "/leases" not in write.path]

    def run(self, ready: threading.Event) -> None:
        """The thread's program."""
        asyncio.set_event_loop(self._loop)
        self._stop = asyncio.Event()
        self._loop.run_until_complete(self._serve(ready))
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.close()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)

    async def _serve(self, ready: threading.Event) -> None:
        authority = self._plane.authority
        serving = authority.issue("proxy", user="proxy", addresses=["IP:127.0.0.1"])
        inbound = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        inbound.load_cert_chain(serving.crt, serving.key)
        client = authority.issue(f"upstream-{self._user}", user=self._user, groups=["system:masters"])
        outbound = ssl.create_default_context(cafile=str(authority.root.crt))
        outbound.load_cert_chain(client.crt, client.key)
        connector = aiohttp.TCPConnector(ssl=outbound, limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
            self._session = session
            app = web.Application(client_max_size=2**24)
            app.router.add_route("*", "/{path:.*}", self._handle)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=inbound)
            await site.start()
            self.port = runner.addresses[0][1]
            ready.set()
            await self._stop.wait()
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        transport = request.transport
        assert transport is not None
        if self.refusing:
            transport.abort()
            return web.Response()
        self._transports.add(transport)
        answer = self.fault(request)
        if answer is not None:
            await request.read()
            return answer
        try:
            if request.method == "GET":
                return await self._forward(request, b"")
            return await self._write(request)
        except (aiohttp.ClientError, ConnectionError):
            # What the server does to us, we do to the operator.
            transport.abort()
            return web.Response()

    async def _write(self, request: web.Request) -> web.StreamResponse:
        lease = "/leases" in request.path
        number = len(self.product_writes())
        self.writes.append(Write(method=request.method, path=request.path, at=time.monotonic()))
        body = await request.read()
        if not lease:
            self.on_write("before", number, request)
            if self.refusing:
                raise ConnectionResetError
        answer = await self._forward(request, body, buffered=True)
        if not lease:
            self.on_write("after", number, request)
            if self.refusing:
                raise ConnectionResetError
        return answer

    async def _forward(self, request: web.Request, body: bytes, *, buffered: bool = False) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        url = self._plane.server + request.raw_path
        async with self._session.request(request.method, url, headers=headers, data=body or None) as upstream:
            kept = {name: value for name, value in upstream.headers.items() if name.lower() not in HOP_BY_HOP}
            if buffered:
                return web.Response(status=upstream.status, headers=kept, body=await upstream.read())
            response = web.StreamResponse(status=upstream.status, headers=kept)
            await response.prepare(request)
            watching = request.query.get("watch") == "true" and upstream.status == 200
            if watching:
                self._streams.add(response)
            try:
                async for chunk in upstream.content.iter_any():
                    await response.write(chunk)
            finally:
                self._streams.discard(response)
            return response


@contextmanager
def proxy(plane: ControlPlane, *, user: str) -> Iterator[Proxy]:
    """A proxy for the time of the block."""
    running, ready = Proxy(plane, user=user), threading.Event()
    thread = threading.Thread(target=running.run, args=(ready,), daemon=True)
    thread.start()
    assert ready.wait(10), "the proxy did not start"
    try:
        yield running
    finally:
        running.stop()
        thread.join(10)


def answer_with(status: int, *, only: Callable[[web.Request], bool] = lambda request: True) -> Fault:
    """A fault that answers requests with a Status object of this code."""
    document = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "message": f"injected {status}"}

    def fault(request: web.Request) -> web.Response | None:
        return web.json_response(document, status=status) if only(request) else None

    return fault


def is_watch(request: web.Request) -> bool:
    return request.query.get("watch") == "true"
