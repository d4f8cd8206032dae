"""What is measured with one server alone on the machine: memory, the first answer, a large tensor."""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from benchmarks.serving import workloads
from benchmarks.serving.figures import Figure, ratio
from benchmarks.serving.load import Load, measured
from benchmarks.serving.ours import GRPC_PORT_OFFSET, OURS, OURS_IN_JSON
from benchmarks.serving.peers.peer import ROOT, Launch, Peer, Site
from benchmarks.serving.process import Process
from benchmarks.serving.rounds import CONNECTIONS, tell
from benchmarks.serving.server import Place, ready, started
from benchmarks.serving.wires import Wire

SINK = "a socket sink"
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
            assert process.child.stdout
            if not process.child.stdout.readline():
                raise process.failed("it ended without an answer")
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


def grpc(place: Place, *, rounds: int, seconds: int) -> Figure:
    """Requests a second over gRPC (raw tensors) by those over HTTP in JSON, on the encoder."""
    workload, connections = workloads.WORKLOADS["encoder"], CONNECTIONS[-1]
    with started(OURS_IN_JSON, workload, place) as server:
        ready(server)
        where = (str(server.port + GRPC_PORT_OFFSET), workload.name, str(connections))

        def over_grpc(duration: int) -> Load:
            arguments = (*where, str(duration), str(place.folder / f"{workload.name}.npy"))
            return measured((sys.executable, "-m", "benchmarks.serving.grpc_load", *arguments), core=place.load_core)

        mine, theirs = _interleaved(
            (
                lambda: server.measured(over_grpc, seconds=seconds).rps,
                lambda: server.measure(connections=connections, seconds=seconds).rps,
            ),
            rounds,
        )
    tell(f"the encoder with {connections} connections: gRPC {_numbers(mine)}/s, JSON {_numbers(theirs)}/s")
    return ratio("grpc_vs_json_c64", mine, theirs, against="v2 JSON")


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


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)
