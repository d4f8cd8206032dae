"""The executor: threads that run one piece of work at a time each, so that the event loop never computes.

torch releases the interpreter's lock inside its kernels, so the loop goes on reading and parsing meanwhile. Work that
takes less than handing it over runs in the loop itself (`run`). All leave a heartbeat, the time their current work
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
        self._began: dict[int, float] = {}
        """By thread."""
        self._threads: list[threading.Thread] = []
        self.grow(1)

    def grow(self, count: int, *, prepare: Callable[[int], None] | None = None) -> None:
        """Starts threads until there are so many; each calls `prepare` first, with its number. The first one is 0."""
        while len(self._threads) < count:
            number = len(self._threads)
            # Daemons: a hung execution must not keep a process from ending.
            thread = threading.Thread(target=self._loop, args=(number, prepare), name="modelmill-executor", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _loop(self, number: int, prepare: Callable[[int], None] | None) -> None:
        if prepare:
            prepare(number)
        while (work := self._work.get()) is not None:
            work()

    def run(self, work: Callable[[], T]) -> Outcome[T]:
        """Runs `work` here and now; what it returned, or what it raised."""
        self._began[threading.get_ident()] = time.monotonic()
        try:
            return work(), None
        except Exception as error:
            return None, error
        finally:
            del self._began[threading.get_ident()]

    def start(self, work: Callable[[], T], *, done: Callable[[Outcome[T]], None]) -> None:
        """Runs `work` in one of the threads, then `done(outcome)` in the loop of the caller."""
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
        """How long the oldest of the current work has been running; 0 when idle."""
        now = time.monotonic()
        return now - min(tuple(self._began.values()), default=now)

    @property
    def alive(self) -> bool:
        return all(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """Ends the threads after their current work."""
        for _ in self._threads:
            self._work.put(None)
