"""The admin port's own thread and loop: what a hung model does to the main loop must not hide it from the kubelet."""

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import uvloop

from modelmill.serve.http import Handler, Limits
from modelmill.serve.listener import Listener

T = TypeVar("T")


class SideListener:
    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="modelmill-admin", daemon=True)
        self._listener: Listener | None = None

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    async def _there(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def start(self, hosts: Sequence[str], *, port: int) -> int:
        """Listens, and says on which port (0 asks for a free one)."""
        self._thread.start()
        self._listener = Listener(self._handler, limits=Limits(), unanswered=lambda status: None)
        return await self._there(self._listener.start(hosts, port=port))

    async def close(self) -> None:
        if self._listener:
            await self._there(self._listener.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            await asyncio.to_thread(self._thread.join, 10)
        else:
            self._loop.close()
