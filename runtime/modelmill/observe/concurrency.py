"""The load that the autoscaler reads: the integral of requests in flight over time.

Two readings of the integral divided by the time between them are the exact average concurrency of that time, however
rarely one looks; an average of samples would miss bursts between them.
"""

from collections.abc import Callable


class Concurrency:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = clock()
        self._seconds = 0.0
        self.in_flight = 0
        self.requests = 0

    def _advance(self) -> None:
        now = self._clock()
        self._seconds += self.in_flight * (now - self._since)
        self._since = now

    def enter(self, requests: int = 1) -> None:
        self._advance()
        self.in_flight += requests
        self.requests += requests

    def leave(self, requests: int = 1) -> None:
        self._advance()
        self.in_flight -= requests

    @property
    def seconds(self) -> float:
        """Changes nothing: the admin port's thread reads it."""
        return self._seconds + self.in_flight * (self._clock() - self._since)
