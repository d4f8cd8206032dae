"""Warm-up: the model runs on zeros before the pod says that it is ready.

One row and a full batch: the first run of each shape pays for memory, kernels' choice and caches, which no client
should. A module that cannot run at all is found here, and the old version serves on.

What the pod's processors do is decided here too, by measurement: several threads in one batch, one thread in each of
several batches, or just one. Threads that wait for each other cost a small model many times its own work, most of all where
other pods want the same processors. So is the size of batches.
"""

import logging
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from modelmill.datatypes import NUMPY
from modelmill.serve.instances import Instances, copies
from modelmill.serve.model import TorchModel
from modelmill.serve.optimize.saturation import saturating_rows
from modelmill.serve.placement import LIMIT_SECONDS
from modelmill.serve.rows import Rows
from modelmill.serve.shapes import Shapes
from modelmill.signature import Signature

log = logging.getLogger(__name__)
FREE_DIMENSION = 8
"""What stands in for a free dimension that is not the batch."""
TEXT = b"text to warm up with"
WORTH_IT = 1.2
"""Several threads must be this much faster than one."""
FEWEST_RUNS, MOST_RUNS = 2, 50
ENOUGH_SECONDS = 0.1
SLOW_SECONDS = 0.02
"""Where a full batch takes longer, batch sizes are compared in one round: a pod must become ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warm:
    seconds: float
    """Of a full batch."""
    rows: int
    """In a batch beyond which more rows bring no more throughput, only latency; at most what was allowed. As many as were
    allowed where rows may be padded: what is worth its padding is decided for each batch."""
    instances: int
    """Batches to run at once."""
    threads: int
    """Of torch, in each of them."""


def warm_up(model: TorchModel, *, max_rows: int, cpus: int, instances: int = 0) -> Warm:
    """Call it in a thread of the executor: torch keeps the number of threads by thread. `instances`: 0 decides itself."""
    torch.set_num_threads(cpus)
    model(zeros(model.signature, count=1))
    model.prepare(max_rows)
    for rows, length in model.shapes:
        model(zeros(model.signature, count=min(rows, max_rows), length=length))
    full = zeros(model.signature, count=max_rows)
    first = _once(model, full)
    if model.device.type == "cpu" and cpus > 1:
        instances = _choose_threads(model, full, cpus=cpus, instances=instances)
    ways = {"instances": max(1, instances), "threads": torch.get_num_threads()}
    if Shapes(model.signature).checked(full.arrays).length:
        return Warm(seconds=first, rows=max_rows, **ways)
    took: dict[int, float] = {}

    def seconds_of(count: int) -> float:
        took[count] = min(_once(model, zeros(model.signature, count=count)), took.get(count, math.inf))
        return took[count]

    rows = saturating_rows(seconds_of, most=max_rows, rounds=3 if first < SLOW_SECONDS else 1)
    seconds = took[max_rows]
    log.info("a batch takes %.2f ms; throughput is full with %d of %d rows", seconds * 1e3, rows, max_rows)
    return Warm(seconds=seconds, rows=rows, **ways)


def _choose_threads(model: TorchModel, rows: Rows, *, cpus: int, instances: int) -> int:
    """Sets the number of threads in a batch, and returns that of batches at once."""
    if instances > 1:
        torch.set_num_threads(max(1, cpus // instances))
        return instances
    several, one = (_seconds(model, rows, threads=threads) for threads in (cpus, 1))
    threads = cpus if several * WORTH_IT < one else 1
    best = min(several, one)
    # Short batches run in the event loop, one after the other.
    apart = _seconds_apart(model, rows, instances=cpus) if instances == 0 and best > LIMIT_SECONDS else best
    instances, threads = (cpus, 1) if apart * WORTH_IT < best else (1, threads)
    torch.set_num_threads(threads)
    log.info(
        "a batch takes %.2f ms with %d threads, %.2f ms with one, %.2f ms each of %d at once: using %d of %d threads",
        *(several * 1e3, cpus, one * 1e3, apart * 1e3, cpus, instances, threads),
    )
    return instances


def _seconds_apart(model: TorchModel, rows: Rows, *, instances: int) -> float:
    """Time by batches, when so many run at once with a thread each."""
    run = Instances(copies(model, instances))
    end = time.perf_counter() + ENOUGH_SECONDS

    def repeat() -> int:
        torch.set_num_threads(1)
        runs = 0
        while runs < FEWEST_RUNS or time.perf_counter() < end:
            run(rows)
            runs += 1
        return runs

    began = time.perf_counter()
    with ThreadPoolExecutor(instances) as pool:
        each = [pool.submit(repeat) for _ in range(instances)]
        total = sum(runs.result() for runs in each)
    return (time.perf_counter() - began) / total


def _seconds(model: TorchModel, rows: Rows, *, threads: int) -> float:
    """The best of a few runs, of many where they are short: the worse ones tell about the neighbours."""
    torch.set_num_threads(threads)
    best = float("inf")
    runs, end = 0, time.perf_counter() + ENOUGH_SECONDS
    while runs < FEWEST_RUNS or (runs < MOST_RUNS and time.perf_counter() < end):
        began = time.perf_counter()
        model(rows)
        best = min(best, time.perf_counter() - began)
        runs += 1
    return best


def _once(model: TorchModel, rows: Rows) -> float:
    began = time.perf_counter()
    model(rows)
    return time.perf_counter() - began


def zeros(signature: Signature, *, count: int, length: int = FREE_DIMENSION) -> Rows:
    arrays = {
        tensor.name: np.full(
            (count, *(length if size == -1 else size for size in tensor.shape[1:])),
            TEXT if tensor.datatype == "BYTES" else 0,
            dtype=NUMPY[tensor.datatype],
        )
        for tensor in signature.inputs
    }
    return Rows(arrays, count)
