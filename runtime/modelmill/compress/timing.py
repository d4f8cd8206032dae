"""How long functions take beside each other on this machine, undisturbed by what else runs on it as far as that goes.

CPU time of this process, one thread, the functions in turn: a change of the clock or of the neighbours meets all of them. Each
turn begins with a call that does not count, which finds the caches as the function before left them. What else runs on the
machine only adds time, so the tenth percentile of the turns is taken: beside a busy neighbour the medians of equal modules
differed by up to 15 %, their tenth percentiles by about 4 %.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

LEAST_SAMPLE_SECONDS = 1e-3
"""Of one sample: shorter functions are called several times."""
NOISE = 0.03
"""Part of a time below which a difference counts as none."""
LEAST_ROUNDS = 3
MOST_ROUNDS = 40


def compare(calls: Sequence[Callable[[], object]], *, seconds: float) -> list[float]:
    """Seconds that one call of each function takes: from as many interleaved rounds as fit into `seconds` (3 to 40)."""
    with one_thread(), torch.inference_mode():
        repeats = [_repeats(call) for call in calls]
        end = time.process_time() + seconds
        rounds: list[list[float]] = []
        while len(rounds) < LEAST_ROUNDS or (len(rounds) < MOST_ROUNDS and time.process_time() < end):
            rounds.append([_sample(call, count) for call, count in zip(calls, repeats, strict=True)])
    return [sorted(times)[len(times) // 10] for times in zip(*rounds, strict=True)]


@contextmanager
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _repeats(call: Callable[[], object]) -> int:
    return max(1, round(LEAST_SAMPLE_SECONDS / max(1e-6, _sample(call, 1))))


def _sample(call: Callable[[], object], repeats: int) -> float:
    call()
    start = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - start) / repeats
