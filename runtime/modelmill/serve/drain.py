"""Leaving without a failed request, after SIGTERM.

Endpoints and proxies learn of a terminating pod at the same time as the pod itself, or seconds later, so for a while
new connections are as welcome as before; every answer asks its client to connect anew elsewhere. Then the port closes,
and what is in flight is finished.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

log = logging.getLogger(__name__)
PROPAGATION_SECONDS = 5.0
LOOK_SECONDS = 0.02


class Port(Protocol):
    """One that can be closed without losing what is under way."""

    @property
    def busy(self) -> int: ...

    def stop_accepting(self) -> None: ...


async def drain(ports: Sequence[Port], *, propagation_seconds: float, in_flight_seconds: float) -> int:
    """Returns how many connections were still busy when the time was up."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(propagation_seconds)
    for port in ports:
        port.stop_accepting()
    deadline = loop.time() + in_flight_seconds
    # Twice in a row: a connection accepted just before the port closed gets its turn to be read.
    quiet = 0
    while quiet < 2 and loop.time() < deadline:
        await asyncio.sleep(LOOK_SECONDS)
        quiet = quiet + 1 if not _busy(ports) else 0
    if left := _busy(ports):
        log.warning("%d requests were not finished within %g s", left, in_flight_seconds)
    return _busy(ports)


def _busy(ports: Sequence[Port]) -> int:
    return sum(port.busy for port in ports)
