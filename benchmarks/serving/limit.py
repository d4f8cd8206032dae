"""The in-process limit: the module that our server runs, on the same rows in fixed batches, without any server.

    python -m benchmarks.serving.limit REGISTRY MODEL

Reads lines `BATCH SECONDS` and answers each with rows a second. Rows are sorted by length, as no server that has to
answer in time could, and padded before the clock starts; whole passes are measured, because rows differ in length.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.serving import workloads
from modelmill.observe.metrics import Metrics
from modelmill.serve import loader, local
from modelmill.serve.model import TorchModel
from modelmill.serve.phases import Phases
from modelmill.serve.rows import Rows
from modelmill.serve.warmup import warm_up

MAX_ROWS = 32


def loaded(registry: str, name: str) -> TorchModel:
    """As the server has it before its warm-up."""
    service = local.service_file(
        registry=registry, namespace="default", model=name, channel="stable", version=None, variant=None, port=0
    )
    return loader.load(service, phases=Phases(Metrics()), into=Path(tempfile.mkdtemp(prefix="limit-", dir="."))).module


def rows_a_second(model: TorchModel, rows: list[workloads.Row], *, batch: int, seconds: float) -> float:
    model(batches(rows, batch)[0])
    return len(rows) * passes_a_second([partial(model, one) for one in batches(rows, batch)], seconds=seconds)


def batches(rows: list[workloads.Row], size: int) -> list[Rows]:
    return [Rows(workloads.padded(part), len(part)) for part in (rows[i : i + size] for i in range(0, len(rows), size))]


def passes_a_second(runs: Sequence[Callable[[], object]], *, seconds: float) -> float:
    began, passes = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds:
        for run in runs:
            run()
        passes += 1
    return passes / spent


def answer(rate: Callable[[int, float], float]) -> None:
    """Each line of the input, a batch's rows and seconds, with a line of the output."""
    print("ready", flush=True)
    for line in sys.stdin:
        batch, seconds = line.split()
        print(rate(int(batch), float(seconds)), flush=True)


def in_order(workload: str) -> list[workloads.Row]:
    """By length."""
    return sorted(workloads.find(workload).all_rows(), key=lambda row: next(iter(row.values())).size)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("registry")
    parser.add_argument("model")
    arguments = parser.parse_args()
    model = loaded(arguments.registry, arguments.model)
    warm_up(model, max_rows=MAX_ROWS, cpus=1)
    rows = in_order(arguments.model)
    answer(lambda batch, seconds: rows_a_second(model, rows, batch=batch, seconds=seconds))


if __name__ == "__main__":
    main()
