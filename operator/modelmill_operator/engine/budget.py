"""How many write requests may go to the API server: a token bucket, so that a storm of work cannot become a storm of requests."""

import asyncio
import time
from collections.abc import Callable


class Budget:
    """Tokens refill at `rate` a second up to `burst`; each write takes one, in the order of asking."""

    def __init__(self, *, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, float(burst), clock
        self._tokens, self._at = float(burst), clock()

    def reserve(self) -> float:
        """Takes a token, perhaps one that is yet to come; the seconds until it is there."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate) - 1.0
        self._at = now
        return max(0.0, -self._tokens / self._rate)

    async def spend(self) -> float:
        """Waits for a token; the seconds that it took."""
        delay = self.reserve()
        if delay > 0:
            await asyncio.sleep(delay)
        return delay
