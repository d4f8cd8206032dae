"""Times on a GPU."""

import statistics
from collections.abc import Callable

import torch


def micros(run: Callable[[], torch.Tensor]) -> float:
    """Median of 50 runs on the device after 10 that warm up."""
    times: list[float] = []
    with torch.inference_mode():
        for _ in range(60):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            run()
            end.record()
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end) * 1000)
    return float(round(statistics.median(times[10:]), 1))
