"""Compressed models beside those of other libraries, in one run: `make bench-compression JSON=file`.

Same weights, same images and sentences, one thread; every side in a process and an environment of its own, asked in
turn. Ours are files `<model>-<variant>.safetensors` in the folder of variants. A quick look:

    make bench-compression ARGS="--models minilm --sides torchao --rounds 2"
"""

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.compression import figures, load, tables
from benchmarks.compression.models import data_folder
from benchmarks.compression.rounds import FP32, OURS, PEERS, Results, compare, ours

LOAD = "load"
PARTS = (*PEERS, LOAD)


def main() -> None:
    arguments = parse()
    if any(name in PEERS for name in arguments.models):
        data_folder()
    results: dict[str, Results] = {}
    with tempfile.TemporaryDirectory(prefix="modelmill-bench-") as folder:
        logs = arguments.logs or Path(folder)
        logs.mkdir(parents=True, exist_ok=True)
        for name in arguments.models:
            if name != LOAD:
                peers = [peer for peer in PEERS[name] if not arguments.sides or peer.module in arguments.sides]
                own = ours(name, arguments.variants)
                results[name] = compare(name, [*FP32, *peers, *own], rounds=arguments.rounds, logs=logs)
    found = figures.figures(results)
    if LOAD in arguments.models:
        found += load.figures(rounds=arguments.rounds)
    tables.show(found, results)
    if arguments.json:
        arguments.json.write_text(json.dumps(told(found, results), indent=1) + "\n")


def told(found: Sequence[figures.Figure], results: dict[str, Results]) -> dict[str, object]:
    """What must hold, and each side's own numbers."""
    sides = [
        {
            "workload": own.workload,
            "side": name,
            "score": own.scores[name],
            "least": own.least[name],
            "batch": batch,
            "wall_seconds": times.wall,
            "cpu_seconds": times.cpu,
        }
        for own in results.values()
        for (name, batch), times in own.times.items()
    ]
    missing = {f"{own.workload}: {name}": reason for own in results.values() for name, reason in own.missing.items()}
    return {"must": [figure.entry() for figure in found], "sides": sides, "missing": missing}


def parse() -> argparse.Namespace:
    modules = sorted({peer.module for peers in PEERS.values() for peer in peers})
    parser = argparse.ArgumentParser(prog="benchmarks.compression", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", type=_some_of(PARTS), default=["resnet56", "minilm", LOAD], help=f"of {','.join(PARTS)}")
    parser.add_argument("--sides", type=_some_of(modules), help=f"libraries, of {','.join(modules)}; all when not given")
    variants = Path(os.environ.get("MODELMILL_VARIANTS", "benchmarks/results/variants"))
    names = ", ".join(f"{model}-{variant}" for model, own in OURS.items() for variant in own)
    parser.add_argument("--variants", type=Path, default=variants, help=f"folder with our files: {names}")
    parser.add_argument("--rounds", type=int, default=12, help="interleaved rounds")
    parser.add_argument("--logs", type=Path, help="folder for what the sides write")
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser.parse_args()


def _some_of(known: Sequence[str]) -> "argparse._ActionType":
    def chosen(text: str) -> list[str]:
        if unknown := [name for name in text.split(",") if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(known)}")
        return text.split(",")

    return chosen


if __name__ == "__main__":
    main()
