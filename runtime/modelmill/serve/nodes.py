"""Memory nodes (NUMA): each of several executor threads stays on the processors of one, so that what a batch writes lies near it.

Threads of torch that such a thread starts stay there too. Weights are the same memory for all, wherever the kernel has put it.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger(__name__)
NODES = Path("/sys/devices/system/node")
Processors = frozenset[int]


def nodes(folder: Path = NODES) -> list[Processors]:
    """The processors of each node that this process may run on; none where the system does not tell."""
    allowed = os.sched_getaffinity(0)
    paths = sorted(folder.glob("node[0-9]*/cpulist"), key=lambda path: int(path.parent.name.removeprefix("node")))
    found = (_processors(path.read_text()) & allowed for path in paths)
    return [processors for processors in found if processors]


def shares(count: int, found: Sequence[Processors]) -> list[Processors | None]:
    """Where each of so many threads stays; None: wherever the process may, for one thread alone or a single node."""
    if count < 2 or len(found) < 2:
        return [None] * count
    return [found[number % len(found)] for number in range(count)]


def stay(processors: Processors | None) -> None:
    """The calling thread stays on these processors. A system that forbids it is told of, nothing more."""
    if processors is None:
        return
    try:
        os.sched_setaffinity(0, processors)
    except OSError as error:
        log.warning("an executor thread cannot stay on one memory node: %s", error)


def _processors(text: str) -> Processors:
    """Of Linux's form: 0-3,8-11. Nodes of memory alone have an empty one."""
    ranges = (part.partition("-") for part in text.strip().split(",") if part)
    return frozenset(number for first, _, last in ranges for number in range(int(first), int(last or first) + 1))
