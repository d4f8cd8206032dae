"""Interleaved rounds: at each number of connections every server has its turn, in an order that moves on each round.

The machine's own speed drifts by tens of percent over minutes; what is compared is therefore measured within one,
and figures are medians of the rounds' ratios.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from benchmarks.serving.load import Load
from benchmarks.serving.ours import NAME, OURS, OWN, VARIANTS
from benchmarks.serving.peers.peer import ROOT, Peer
from benchmarks.serving.process import Failed, Process
from benchmarks.serving.server import Place, Server, ready, started
from benchmarks.serving.venvs import NotToBeHad
from benchmarks.serving.workloads import Workload

CONNECTIONS = (1, 16, 64)
IN_PROCESS = {"PYTHONPATH": str(ROOT)}
BATCHES = (2, 4, 8, 16, 32)


@dataclass(kw_only=True)
class Results:
    """Of one workload: a list has one entry a round."""

    loads: dict[tuple[str, int], list[Load]] = field(default_factory=dict)
    """By server and connections."""
    limits: list[float] = field(default_factory=list)
    """Rows a second in process."""
    limit_batch: int = 0
    missing: dict[str, str] = field(default_factory=dict)
    """Peers that could not be had or started, and why."""

    def peers(self) -> list[str]:
        return [name for name in dict.fromkeys(name for name, _ in self.loads) if name not in OWN]


class Limit:
    """The process of `benchmarks.serving.limit`; it waits for its turn by itself."""

    def __init__(self, process: Process) -> None:
        self._process = process
        process.ask()
        self.batch = max(BATCHES, key=lambda batch: self._rate(batch, 0.5))

    def rate(self, seconds: float) -> float:
        return self._rate(self.batch, seconds)

    def _rate(self, batch: int, seconds: float) -> float:
        return float(self._process.ask(f"{batch} {seconds}\n"))


def compare(workload: Workload, peers: Sequence[Peer], place: Place, *, rounds: int, seconds: int) -> Results:
    """Raises WrongAnswer; a peer that cannot be had or does not start is named in the results instead."""
    results = Results()
    with ExitStack() as stack:
        servers = [ready(stack.enter_context(started(OURS, workload, place)))]
        for peer in (*VARIANTS.get(workload.name, ()), *peers):
            try:
                servers.append(_joined(stack, peer, workload, place))
            except (NotToBeHad, Failed) as error:
                results.missing[peer.name] = str(error)
                tell(f"{workload.name}: {peer.name} is missing: {error}")
        limit = stack.enter_context(_limit(workload, place)) if workload.slow else None
        if limit:
            results.limit_batch = limit.batch
        for number in range(rounds):
            _round(results, servers, limit, number=number, seconds=seconds, long=2 * seconds if workload.slow else seconds)
            tell(f"{workload.name}: round {number + 1} of {rounds}: {_state(results)}")
    return results


def _joined(stack: ExitStack, peer: Peer, workload: Workload, place: Place) -> Server:
    with ExitStack() as own:
        server = ready(own.enter_context(started(peer, workload, place)))
        stack.push(own.pop_all())
    return server


@contextmanager
def _limit(workload: Workload, place: Place) -> Iterator[Limit]:
    command = (sys.executable, "-m", "benchmarks.serving.limit", f"file://{place.folder}/registry", workload.name)
    process = Process(f"{workload.name}-limit", command, core=place.server_core, env=IN_PROCESS, folder=place.folder, talks=True)
    try:
        yield Limit(process)
    finally:
        process.stop()


def _round(results: Results, servers: Sequence[Server], limit: Limit | None, *, number: int, seconds: int, long: int) -> None:
    """`long`: the seconds with the most connections, whose batches take longest."""
    first = number % len(servers)
    for connections in CONNECTIONS:
        for server in (*servers[first:], *servers[:first]):
            most = connections == CONNECTIONS[-1]
            measured = server.measure(connections=connections, seconds=long if most else seconds)
            results.loads.setdefault((server.name, connections), []).append(measured)
            if limit and server.name == NAME and most:
                results.limits.append(limit.rate(long))


def _state(results: Results) -> str:
    most = CONNECTIONS[-1]
    rates = [f"{name} {loads[-1].rps:.0f}/s" for (name, connections), loads in results.loads.items() if connections == most]
    rates += [f"in process {results.limits[-1]:.0f}/s"] if results.limits else []
    return f"{', '.join(rates)} with {most} connections"


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
