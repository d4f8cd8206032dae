"""The asynchronous client: `Client` with await."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from modelmill.client import transport
from modelmill.client.exchange import Exchange, Flow, NoReply, Reply, T
from modelmill.client.metadata import ModelMetadata, ServerMetadata
from modelmill.client.session import Session
from modelmill.client.spares import Spares
from modelmill.datatypes import Array


class AsyncClient:
    """`Client` for asyncio: the same arguments, methods and errors. Many calls may be under way at once."""

    def __init__(
        self, url: str, *, api_key: str | None = None, timeout: float = 30.0, ca: str | Path | None = None, retries: int = 3
    ) -> None:
        root = transport.checked(url)
        self._session = Session(root, timeout=timeout, retries=retries)
        options = transport.options(root, api_key=api_key, ca=ca)
        self._spares = Spares(lambda: httpx.AsyncClient(**options))

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        version: str | int | None = None,
        outputs: Sequence[str] | None = None,
        binary: bool = True,
        priority: int = 0,
        timeout: float | None = None,
    ) -> dict[str, Array]:
        """See Client.infer. A cancelled call closes its connection: servers drop work whose client went away."""
        flow = self._session.infer(
            model, inputs, version=version, outputs=outputs, binary=binary, priority=priority, timeout=timeout
        )
        return await self._run(flow)

    async def metadata(self, model: str, *, version: str | int | None = None) -> ModelMetadata:
        """See Client.metadata."""
        return await self._run(self._session.metadata(model, version=version))

    async def server(self) -> ServerMetadata:
        """See Client.server."""
        return await self._run(self._session.server())

    async def ready(self, model: str | None = None) -> bool:
        """See Client.ready."""
        return await self._run(self._session.ready(model))

    async def live(self) -> bool:
        """See Client.live."""
        return await self._run(self._session.live())

    async def close(self) -> None:
        """Closes the connections."""
        for unused in self._spares.close():
            await unused.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def _run(self, flow: Flow[T]) -> T:
        exchange = next(flow)
        while True:
            outcome = await self._exchange(exchange)
            try:
                exchange = flow.send(outcome)
            except StopIteration as done:
                result: T = done.value
                return result

    async def _exchange(self, wanted: Exchange) -> Reply | NoReply:
        await asyncio.sleep(wanted.after)
        http = self._spares.take()
        try:
            answer = await http.request(
                wanted.method, wanted.path, content=wanted.body or None, headers=wanted.headers, timeout=wanted.timeout
            )
        except httpx.TransportError as error:
            return transport.no_reply(error, timeout=wanted.timeout)
        finally:
            for old in self._spares.give_back(http):
                await old.aclose()
        return transport.reply(answer)
