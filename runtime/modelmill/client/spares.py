"""The connections that nobody uses at the moment.

Each is an httpx client of its own, with one connection. The pool inside an httpx client looks at all its connections, for
each of them, whenever a request begins or ends: with a hundred connections that takes tens of milliseconds of CPU.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

H = TypeVar("H")
IDLE_SECONDS = 5.0
"""Servers and proxies close idle connections, too, mostly later: a request shall not meet that."""


class Spares(Generic[H]):
    """For threads as well as for tasks: its steps are single operations on a deque."""

    def __init__(self, make: Callable[[], H]) -> None:
        self._make = make
        self._unused: deque[tuple[float, H]] = deque()
        self._closed = False

    def take(self) -> H:
        """The one that was used last, for the others to grow old; a new one when there is none."""
        if self._closed:
            raise RuntimeError("the client is closed")
        try:
            return self._unused.pop()[1]
        except IndexError:
            return self._make()

    def give_back(self, spare: H) -> list[H]:
        """Those that the caller shall close: they have not been used for long."""
        if self._closed:
            return [spare]
        now = time.monotonic()
        self._unused.append((now, spare))
        old = []
        try:
            while now - self._unused[0][0] > IDLE_SECONDS:
                old.append(self._unused.popleft()[1])
        except IndexError:  # another thread took the last one
            pass
        return old

    def close(self) -> list[H]:
        """All that are unused, for the caller to close; those in use come with `give_back`."""
        self._closed = True
        rest = [spare for _, spare in self._unused]
        self._unused.clear()
        return rest
