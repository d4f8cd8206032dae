"""Which resources need a look, each at most once, the urgent ones first, failed ones later and later.

The rules are those of every good controller: a key waits at most once; a key that is added while it is worked on is worked on
again afterwards, never by two workers at a time; what failed comes back after a delay that doubles and is jittered, so that a
thousand failures do not return together. Urgent keys (resources that nobody has looked at yet) overtake the others.
"""

import asyncio
import heapq
import itertools
import random
import time
from collections import deque
from collections.abc import Callable

from modelmill_operator.engine.kinds import Key


class WorkQueue:
    """The keys to work on. Not thread-safe: it belongs to one event loop."""

    def __init__(
        self,
        *,
        retry_min: float,
        retry_max: float,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._retry_min, self._retry_max = retry_min, retry_max
        self._clock, self._jitter = clock, jitter
        self._urgent: deque[Key] = deque()
        self._normal: deque[Key] = deque()
        self._waiting: dict[Key, float] = {}
        self._working: set[Key] = set()
        self._again: dict[Key, bool] = {}
        self._delayed: list[tuple[float, int, Key]] = []
        self._due: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        self._order = itertools.count()
        self._idle: deque[asyncio.Future[None]] = deque()

    def add(self, key: Key, *, urgent: bool = False) -> None:
        """Asks for a look at a resource."""
        if key in self._working:
            self._again[key] = self._again.get(key, False) or urgent
            return
        if key not in self._waiting:
            self._waiting[key] = self._clock()
            (self._urgent if urgent else self._normal).append(key)
        elif urgent and key not in self._urgent:
            # Its place among the others stays behind; `take` skips it.
            self._urgent.append(key)
        self._wake()

    def add_later(self, key: Key, delay: float) -> None:
        """Asks for a look after a while, unless an earlier one is due already."""
        due = self._clock() + delay
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            heapq.heappush(self._delayed, (due, next(self._order), key))
            self._wake()

    def take(self) -> Key | None:
        """The next key to work on, if any; `done` or `failed` must follow."""
        self._move_due()
        for lane in (self._urgent, self._normal):
            while lane:
                key = lane.popleft()
                if self._waiting.pop(key, None) is not None:
                    self._working.add(key)
                    return key
        return None

    async def get(self) -> Key:
        """Waits for the next key to work on."""
        while (key := self.take()) is None:
            waiter = asyncio.get_running_loop().create_future()
            self._idle.append(waiter)
            delay = self._delayed[0][0] - self._clock() if self._delayed else None
            try:
                # Not wait_for: before Python 3.12 it swallows a cancellation that comes together with the result.
                async with asyncio.timeout(delay):
                    await waiter
            except TimeoutError:
                pass
            finally:
                if waiter in self._idle:
                    self._idle.remove(waiter)
        return key

    def done(self, key: Key) -> None:
        """The work on this key succeeded: its failures are forgotten."""
        self._failures.pop(key, None)
        self._finish(key)

    def failed(self, key: Key, *, at_least: float = 0.0) -> float:
        """The work on this key failed: it comes back after the returned delay."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay = min(self._retry_max, self._retry_min * 2.0 ** min(failures - 1, 30)) * (0.75 + self._jitter() / 2)
        delay = max(delay, at_least)
        # What changed meanwhile does not shorten the delay: a resource that fails and changes all the time must not spin.
        self._again.pop(key, None)
        self._finish(key)
        self.add_later(key, delay)
        return delay

    def hand_back(self, key: Key) -> None:
        """Nothing was done: the key waits again as if it had not been taken."""
        self._again.setdefault(key, False)
        self._finish(key)

    def depth(self) -> int:
        return len(self._waiting)

    def urgent_depth(self) -> int:
        """How many urgent keys wait."""
        return len(self._urgent)

    def oldest_age(self) -> float:
        """For how long the key that waits longest could have been worked on already."""
        return self._clock() - next(iter(self._waiting.values())) if self._waiting else 0.0

    def _wake(self) -> None:
        """One key, one worker: waking them all for each costs more than most looks."""
        while self._idle:
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _finish(self, key: Key) -> None:
        self._working.discard(key)
        if key in self._again:
            self.add(key, urgent=self._again.pop(key))

    def _move_due(self) -> None:
        now = self._clock()
        while self._delayed and self._delayed[0][0] <= now:
            due, _, key = heapq.heappop(self._delayed)
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key)
