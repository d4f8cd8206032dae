"""What is measured with one server alone on the machine: memory, the first answer, a large tensor."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from benchmarks.serving import workloads
from benchmarks.serving.figures import Figure, ratio
from benchmarks.serving.load import Load, told
from benchmarks.serving.ours import GRPC_PORT_OFFSET, OURS, OURS_IN_JSON
from benchmarks.serving.peers.peer import ROOT, Launch, Peer, Site
from benchmarks.serving.process import Process, settle
from benchmarks.serving.rounds import CONNECTIONS, tell
from benchmarks.serving.server import Place, Server, ready, started
from benchmarks.serving.wires import Wire

SINK = "a socket sink"
TURNS, TURN_SECONDS = 3, 10
"""Of each side in a round, where what is compared differs little. In short turns it counts that a client in Python takes
longer to have all its calls under way: the first batches are small (a hundredth in turns of 2 s)."""
MEMORY_ROUNDS = 3
"""Memory hardly varies, and each server has to be started anew."""


def memory(place: Place, triton: Peer, *, rounds: int, seconds: int) -> Figure:
    """MiB of the whole tree after some load on the MLP, whose own weights are 38 kB."""
    workload = workloads.WORKLOADS["mlp"]

    def used(peer: Peer) -> float:
        with started(peer, workload, place) as server:
            ready(server).measure(connections=CONNECTIONS[-1], seconds=seconds)
            return server.process.memory_mib()

    pairs = [(used(OURS), used(triton)) for _ in range(min(rounds, MEMORY_ROUNDS))]
    ours, theirs = zip(*pairs, strict=True)
    tell(f"memory: ours {_numbers(ours)} MiB, {triton.name} {_numbers(theirs)} MiB")
    return ratio("rss_vs_triton", ours, theirs, against=triton.name)


def first_answer(place: Place, *, rounds: int) -> Figure:
    """Seconds from the start of the process to the first right answer of the encoder; the page cache is warm."""
    workload = workloads.WORKLOADS["encoder"]

    def of_server() -> float:
        began = time.perf_counter()
        with started(OURS, workload, place) as server:
            # Seldom: each question takes time from the start that is measured.
            server.wait(pause=0.02)
            seconds = time.perf_counter() - began
            server.check()
        return seconds

    def of_script() -> float:
        command = (sys.executable, "-m", "benchmarks.serving.first_answer", place.folder / "encoder.safetensors", workload.name)
        began = time.perf_counter()
        process = Process(
            "script", command, core=place.server_core, env={"PYTHONPATH": str(ROOT)}, folder=place.folder, talks=True
        )
        try:
            process.ask()
            return time.perf_counter() - began
        finally:
            process.stop()

    of_script()
    of_server()
    ours, theirs = _interleaved((of_server, of_script), rounds)
    tell(f"first answer: ours {_numbers(ours)} s, a script {_numbers(theirs)} s")
    return ratio("first_answer_vs_script", ours, theirs, against="a script")


def big_tensor(place: Place, *, rounds: int, seconds: int) -> Figure:
    """Milliseconds for one request with a tensor of 12.6 MB over one connection."""
    with ExitStack() as stack:
        ours, sink = (stack.enter_context(started(peer, workloads.BIG, place)) for peer in (OURS, _SINK))
        ready(ours)
        sink.wait()
        sink.write_requests()
        sink.process.pause()
        mine, theirs = _interleaved(
            (
                lambda: ours.measure(connections=1, seconds=seconds).p50,
                lambda: sink.measure(connections=1, seconds=seconds).p50,
            ),
            rounds,
        )
    tell(f"a tensor of 12.6 MB: ours {_numbers(mine)} ms, {SINK} {_numbers(theirs)} ms")
    return ratio("big_tensor_vs_socket_sink", mine, theirs, against=SINK)


def grpc(place: Place, *, rounds: int) -> Figure:
    """Requests a second over gRPC (raw tensors) by those over HTTP in JSON, on the encoder.

    Either as its clients do it: calls at once over gRPC share a connection (all channels of a process to one address do),
    over HTTP/1.1 each has its own. How gRPC does with as many connections is told beside it. The server spends a thirtieth of
    its time outside the model, so the two cannot differ by more, and the machine's speed changes by ten times that from
    minute to minute: a round is several turns of each, forwards and backwards.
    """
    workload, calls = workloads.WORKLOADS["encoder"], CONNECTIONS[-1]
    with ExitStack() as stack:
        server = ready(stack.enter_context(started(OURS_IN_JSON, workload, place)))
        server.process.resume()
        one, many = (stack.enter_context(_grpc_load(server, workload, place, calls=calls, connections=n)) for n in (1, calls))
        sides: list[Callable[[int], Load]] = [one, lambda duration: server.load(connections=calls, seconds=duration), many]
        for side in sides:
            # gRPC's clients measure their connections' bandwidth for about so long, and seldom later.
            side(TURN_SECONDS)
        shared, json, own = _turns(server, sides, rounds)
    apart = ratio(f"grpc_vs_json_{calls}_connections", own, json, against="v2 JSON")
    tell(f"the encoder, {calls} requests at once: gRPC over one connection {_numbers(shared)}/s, JSON {_numbers(json)}/s")
    tell(f"gRPC over {calls} connections {_numbers(own)}/s, of JSON {apart.value:.3f} ({apart.low:.3f} to {apart.high:.3f})")
    return ratio("grpc_vs_json_c64", shared, json, against=f"v2 JSON ({calls} connections: {apart.value:.3f})")


@contextmanager
def _grpc_load(
    server: Server, workload: workloads.Workload, place: Place, *, calls: int, connections: int
) -> Iterator[Callable[[int], Load]]:
    """Sends for so many seconds, over connections that stay."""
    arguments = (server.port + GRPC_PORT_OFFSET, workload.name, calls, connections, place.folder / f"{workload.name}.npy")
    command = (sys.executable, "-m", "benchmarks.serving.grpc_load", *map(str, arguments))
    name, env = f"grpc-load-{connections}", {"PYTHONPATH": str(ROOT)}
    process = Process(name, command, core=place.load_core, env=env, folder=place.folder, talks=True)

    def send(seconds: int) -> Load:
        began, used = time.monotonic(), process.cpu_seconds()
        line = process.ask(f"{seconds}\n")
        return told(line, busy=(process.cpu_seconds() - used) / (time.monotonic() - began))

    try:
        process.ask()
        yield send
    finally:
        process.stop()


def _sink(site: Site) -> Launch:
    command = (sys.executable, "-m", "benchmarks.serving.sink", str(site.port))
    return Launch(command=command, path="/", wire=Wire.V2_BINARY, env={"PYTHONPATH": str(ROOT)})


_SINK = Peer(name="sink", environment="", requirements=(), launch=_sink)


def _interleaved(pair: Sequence[Callable[[], float]], rounds: int) -> tuple[list[float], list[float]]:
    first, second = pair
    results: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        results[0].append(first())
        results[1].append(second())
    return results


def _turns(server: Server, sides: Sequence[Callable[[int], Load]], rounds: int) -> list[list[float]]:
    """By side, each round's mean rate of its turns."""
    results: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        sums = [0.0] * len(sides)
        for turn in range(TURNS):
            for i in range(len(sides))[:: -1 if turn % 2 else 1]:
                settle(server.process)
                sums[i] += sides[i](TURN_SECONDS).rps
        for each, total in zip(results, sums, strict=True):
            each.append(total / TURNS)
    return results


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)
