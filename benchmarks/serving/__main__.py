"""Our serving runtime beside its peers, in one run: `make bench-serving JSON=file`.

Every server's whole process tree on one core, `wrk` on the other; the same weights, fp32, one torch thread, batches of
at most 32 rows; all answers are checked before anything is measured. A quick look:

    make bench-serving ARGS="--workloads mlp --peers triton --rounds 2 --seconds 2"
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.serving import alone, figures, gpu, load
from benchmarks.serving.ours import CNN_BF16_MODEL
from benchmarks.serving.peers import PEERS
from benchmarks.serving.peers.peer import Peer
from benchmarks.serving.process import Failed, end_leftovers
from benchmarks.serving.rounds import Results, compare
from benchmarks.serving.server import Place, WrongAnswer
from benchmarks.serving.workloads import BIG, WORKLOADS

MEMORY, FIRST_ANSWER, BIG_TENSOR, GRPC, GPU = "memory", "first-answer", "big-tensor", "grpc", "gpu"
PARTS = (*WORKLOADS, BIG_TENSOR, GRPC, MEMORY, FIRST_ANSWER, GPU)
NEEDS = {
    MEMORY: ("mlp",),
    FIRST_ANSWER: ("encoder",),
    BIG_TENSOR: (BIG.name,),
    GRPC: ("encoder",),
    GPU: ("cnn", CNN_BF16_MODEL, "encoder"),
}


def main() -> None:
    arguments = parse(sys.argv[1:])
    load.require()
    # A plain `kill` ends the servers as a Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    end_leftovers()
    why_not = {}
    if GPU in arguments.workloads and not gpu.there():
        arguments.workloads.remove(GPU)
        why_not[gpu.NAME] = gpu.ABSENT
    seen = gpu.hidden()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[1]})
    with tempfile.TemporaryDirectory(prefix="modelmill-bench-") as folder:
        place = Place(folder=Path(folder), server_core=cores[0], load_core=cores[1])
        publish(place, sorted({name for part in arguments.workloads for name in NEEDS.get(part, (part,))}))
        try:
            results, found = measure(place, arguments, seen)
        except (Failed, WrongAnswer) as error:
            raise SystemExit(str(error)) from error
        except KeyboardInterrupt:
            raise SystemExit(128 + signal.SIGINT) from None
    show(results, found, why_not)
    if arguments.json:
        arguments.json.write_text(json.dumps({"must": [figure.entry() for figure in found]}, indent=1) + "\n")


def publish(place: Place, names: Sequence[str]) -> None:
    command = [sys.executable, "-m", "benchmarks.serving.publish", str(place.folder), *names]
    subprocess.run(command, check=True)


def measure(
    place: Place, arguments: argparse.Namespace, seen: Mapping[str, str]
) -> tuple[dict[str, Results], list[figures.Figure]]:
    """`seen`: the environment in which a process sees the GPU."""
    peers: list[Peer] = [peer for name in arguments.peers for peer in PEERS[name]]
    rounds, seconds = arguments.rounds, arguments.seconds
    results = {
        name: compare(workload, peers, place, rounds=rounds, seconds=seconds)
        for name, workload in WORKLOADS.items()
        if name in arguments.workloads
    }
    found = figures.figures(results)
    if BIG_TENSOR in arguments.workloads:
        found.append(alone.big_tensor(place, rounds=rounds, seconds=seconds))
    if GRPC in arguments.workloads:
        found.append(alone.grpc(place, rounds=rounds))
    if MEMORY in arguments.workloads and "triton" in arguments.peers:
        found.append(alone.memory(place, PEERS["triton"][0], rounds=rounds, seconds=seconds))
    if FIRST_ANSWER in arguments.workloads:
        found.append(alone.first_answer(place, rounds=rounds))
    if GPU in arguments.workloads:
        found.append(gpu.vs_graph_loop(place, env=seen, rounds=rounds, seconds=seconds))
    return results, found


def show(results: dict[str, Results], found: Sequence[figures.Figure], why_not: Mapping[str, str]) -> None:
    for name, own in results.items():
        print("\n".join(("", *figures.table(name, own))))
    print("\n".join(("", *figures.verdict(found, why_not=why_not))))


def parse(arguments: list[str]) -> argparse.Namespace:
    def some_of(known: Sequence[str]) -> "argparse._ActionType":
        def chosen(text: str) -> list[str]:
            if unknown := [name for name in text.split(",") if name not in known]:
                raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(known)}")
            return text.split(",")

        return chosen

    parser = argparse.ArgumentParser(prog="benchmarks.serving", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workloads", type=some_of(PARTS), default=list(PARTS), help=f"of {','.join(PARTS)}")
    parser.add_argument("--peers", type=some_of(tuple(PEERS)), default=list(PEERS), help=f"of {','.join(PEERS)}")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds")
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement, after a second of warm-up")
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
