"""The executor: one thread that runs one piece of work at a time, so that the event loop never computes.

torch releases the interpreter's lock inside its kernels, so the loop goes on reading and parsing meanwhile. Work that
takes less than handing it over runs in the loop itself (`run`). Both leave a heartbeat, the time the current work
began: liveness notices a hung execution by it (a loop that hangs does not answer the probe at all).
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
Outcome = tuple[T, None] | tuple[None, Exception]


class Executor:
    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._began: float | None = None
        # A daemon: a hung execution must not keep a process from ending.
        self._thread = threading.Thread(target=self._loop, name="modelmill-executor", daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        while (work := self._work.get()) is not None:
            work()

    def run(self, work: Callable[[], T]) -> Outcome[T]:
        """Runs `work` here and now; what it returned, or what it raised."""
        self._began = time.monotonic()
        try:
            return work(), None
        except Exception as error:
            return None, error
        finally:
            self._began = None

    def start(self, work: Callable[[], T], *, done: Callable[[Outcome[T]], None]) -> None:
        """Runs `work` in the thread, then `done(outcome)` in the loop of the caller."""
        loop = asyncio.get_running_loop()

        def step() -> None:
            outcome = self.run(work)
            try:
                loop.call_soon_threadsafe(done, outcome)
            except RuntimeError:
                # The loop is closed: nobody waits for the result any more.
                pass

        self._work.put(step)

    async def call(self, work: Callable[[], T]) -> T:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(outcome: Outcome[T]) -> None:
            result, failure = outcome
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
