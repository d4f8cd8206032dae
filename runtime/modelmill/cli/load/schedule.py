"""When requests of an open loop are due."""

import random
from collections.abc import Iterator


def poisson(rate: float, *, seconds: float, source: random.Random) -> Iterator[float]:
    """Times of a Poisson process with `rate` events a second, in seconds from its start, within `seconds`."""
    due = source.expovariate(rate)
    while due < seconds:
        yield due
        due += source.expovariate(rate)
