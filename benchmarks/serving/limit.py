"""The in-process limit: the module that our server runs, on the same rows in fixed batches, without any server.

    python -m benchmarks.serving.limit REGISTRY MODEL

Reads lines `BATCH SECONDS` and answers each with rows a second. Rows are sorted by length, as no server that has to
answer in time could, and padded before the clock starts; whole passes are measured, because rows differ in length.
"""

import argparse
import sys
import tempfile
import time
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
    """As the server has it when it begins to answer."""
    service = local.service_file(
        registry=registry, namespace="default", model=name, channel="stable", version=None, variant=None, port=0
    )
    model = loader.load(service, phases=Phases(Metrics()), into=Path(tempfile.mkdtemp(prefix="limit-", dir="."))).module
    warm_up(model, max_rows=MAX_ROWS, cpus=1)
    return model


def rows_a_second(model: TorchModel, rows: list[workloads.Row], *, batch: int, seconds: float) -> float:
    batches = [Rows(workloads.padded(rows[i : i + batch]), len(rows[i : i + batch])) for i in range(0, len(rows), batch)]
    model(batches[0])
    began, passes = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds:
        for one in batches:
            model(one)
        passes += 1
    return passes * len(rows) / spent


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("registry")
    parser.add_argument("model")
    arguments = parser.parse_args()
    model = loaded(arguments.registry, arguments.model)
    rows = sorted(workloads.find(arguments.model).all_rows(), key=lambda row: next(iter(row.values())).size)
    print("ready", flush=True)
    for line in sys.stdin:
        batch, seconds = line.split()
        print(rows_a_second(model, rows, batch=int(batch), seconds=float(seconds)), flush=True)


if __name__ == "__main__":
    main()
