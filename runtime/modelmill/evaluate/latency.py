"""How long one forward pass of one row takes: one thread, warm, on the machine that evaluates.

It compares the variants of one version with each other. It is no promise for another machine, a batch or a GPU, and
neighbours on the same machine disturb it: hence the median, and the spread beside it.
"""

import time

import torch
from torch import nn

from modelmill.evaluate.task import Latency

WARM_UP = 5
MAX_RUNS = 100
MAX_SECONDS = 2.0


def measure_latency(module: nn.Module, row: torch.Tensor) -> Latency:
    """`row` is a batch of one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for _ in range(WARM_UP):
                module(row)
            times = _times(module, row)
    finally:
        torch.set_num_threads(threads)
    return Latency(median=_quantile(times, 0.5), low=_quantile(times, 0.1), high=_quantile(times, 0.9))


def _times(module: nn.Module, row: torch.Tensor) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + MAX_SECONDS
    while not times or (len(times) < MAX_RUNS and time.perf_counter() < end):
        start = time.perf_counter()
        module(row)
        times.append(1000 * (time.perf_counter() - start))
    return sorted(times)


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
