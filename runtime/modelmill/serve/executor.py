"""The executor: one thread that runs one piece of work at a time, so that the event loop never computes.

torch releases the interpreter's lock inside its kernels, so the loop goes on reading and parsing meanwhile. The thread
leaves a heartbeat, the time its current work began: liveness notices a hung execution by it.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Executor:
    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._began: float | None = None
        # A daemon: a hung execution must not keep a process from ending.
        self._thread = threading.Thread(target=self._run, name="modelmill-executor", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            self._began = time.monotonic()
            work()
            self._began = None

    def start(self, work: Callable[[], T], *, done: Callable[[T | None, Exception | None], None]) -> None:
        """Runs `work`, then `done(result, error)` in the loop of the caller."""
        loop = asyncio.get_running_loop()

        def step() -> None:
            result: T | None = None
            failure: Exception | None = None
            try:
                result = work()
            except Exception as error:
                failure = error
            try:
                loop.call_soon_threadsafe(done, result, failure)
            except RuntimeError:
                # The loop is closed: nobody waits for the result any more.
                pass

        self._work.put(step)

    async def call(self, work: Callable[[], T]) -> T:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(result: T | None, failure: Exception | None) -> None:
            if future.cancelled():
                return
            if failure:
                future.set_exception(failure)
            else:
                future.set_result(result)

        self.start(work, done=done)
        value: T = await future
        return value

    def busy_seconds(self) -> float:
        """How long the current work has been running; 0 when idle."""
        began = self._began
        return time.monotonic() - began if began is not None else 0.0

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """Ends the thread after its current work."""
        self._work.put(None)
