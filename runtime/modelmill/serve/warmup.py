"""Warm-up: the model runs on zeros before the pod says that it is ready.

One row and a full batch: the first run of each shape pays for memory, kernels' choice and caches, which no client
should. A module that cannot run at all is found here, and the old version serves on.

The number of torch's threads is decided here too, by measurement: threads that wait for each other cost a small model
many times its own work, most of all where other pods want the same processors.
"""

import logging
import time

import numpy as np
import torch

from modelmill.serve.datatypes import NUMPY
from modelmill.serve.model import TorchModel
from modelmill.serve.rows import Rows

log = logging.getLogger(__name__)
FREE_DIMENSION = 8
"""What stands in for a free dimension that is not the batch."""
WORTH_IT = 1.2
"""Several threads must be this much faster than one."""
RUNS = 4


def warm_up(model: TorchModel, *, max_rows: int, cpus: int) -> None:
    """Call it in the executor's thread: torch keeps the number of threads by thread."""
    torch.set_num_threads(cpus)
    for count in sorted({1, max_rows}):
        model(zeros(model, count=count))
    if model.device.type == "cpu" and cpus > 1:
        _choose_threads(model, zeros(model, count=max_rows), cpus=cpus)


def _choose_threads(model: TorchModel, rows: Rows, *, cpus: int) -> None:
    several, one = (_seconds(model, rows, threads=threads) for threads in (cpus, 1))
    threads = cpus if several * WORTH_IT < one else 1
    torch.set_num_threads(threads)
    log.info("a batch takes %.2f ms with %d threads, %.2f ms with one: using %d", several * 1e3, cpus, one * 1e3, threads)


def _seconds(model: TorchModel, rows: Rows, *, threads: int) -> float:
    """The best of a few runs: the worst ones tell about the neighbours."""
    torch.set_num_threads(threads)
    best = float("inf")
    for _ in range(RUNS):
        began = time.perf_counter()
        model(rows)
        best = min(best, time.perf_counter() - began)
    return best


def zeros(model: TorchModel, *, count: int) -> Rows:
    arrays = {
        tensor.name: np.zeros(
            (count, *(FREE_DIMENSION if size == -1 else size for size in tensor.shape[1:])), dtype=NUMPY[tensor.datatype]
        )
        for tensor in model.signature.inputs
    }
    return Rows(arrays, count)
