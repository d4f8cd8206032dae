"""Where a batch runs, by what batches take: in the event loop or in the executor's thread."""

import itertools
import threading
import time

import torch

from modelmill.serve.placement import LIMIT_SECONDS, PATIENCE, Placement
from tests.unit.serve.support import running


class Placed:
    """Records the thread of each run; takes `seconds`."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.threads: list[str] = []

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.seconds:
            time.sleep(self.seconds)
        self.threads.append(threading.current_thread().name)
        return x * 2


def test_a_slow_model_runs_in_the_executor_and_the_loop_stays_free() -> None:
    module = Placed(seconds=0.002)
    with running(module) as server:
        assert server.predict([[1, 2, 3]])[0] == 200
        assert set(module.threads) == {"modelmill-executor"}


def test_a_model_that_becomes_slow_moves_to_the_executor_and_back() -> None:
    module = Placed()
    with running(module) as server:

        def runs_in_the_loop() -> bool:
            assert server.predict([[1, 2, 3]])[0] == 200
            return module.threads[-1] != "modelmill-executor"

        # One right after the other: after a pause even the shortest run meets cold caches.
        assert any(runs_in_the_loop() for _ in range(5000))
        module.seconds = 0.01
        assert not all(runs_in_the_loop() for _ in range(100))
        module.seconds = 0.0
        assert any(runs_in_the_loop() for _ in range(5000))


FAST, SLOW = LIMIT_SECONDS / 4, LIMIT_SECONDS * 100


def placed(placement: Placement, *, seconds: float, processor_seconds: float, batches: int) -> list[bool]:
    """Where each of so many batches ran."""
    places = []
    for _ in range(batches):
        places.append(placement.in_loop())
        placement.ran(seconds, processor_seconds=processor_seconds)
    return places


def test_one_interruption_does_not_move_a_fast_model() -> None:
    placement = Placement(FAST)
    placed(placement, seconds=SLOW, processor_seconds=SLOW, batches=1)
    assert all(placed(placement, seconds=FAST, processor_seconds=FAST, batches=10))


def test_a_module_that_waits_is_tried_in_the_loop_ever_seldomer() -> None:
    places = placed(Placement(SLOW), seconds=SLOW, processor_seconds=FAST, batches=PATIENCE * 16)
    trials = [i for i, in_loop in enumerate(places) if in_loop]
    assert len(trials) >= 3
    gaps = [b - a for a, b in itertools.pairwise(trials)]
    assert all(later >= 2 * earlier - 1 for earlier, later in itertools.pairwise(gaps))


def test_a_module_that_computes_for_long_is_never_tried() -> None:
    assert not any(placed(Placement(SLOW), seconds=SLOW, processor_seconds=SLOW, batches=1000))


def test_without_a_limit_nothing_runs_in_the_loop() -> None:
    assert not any(placed(Placement(0.0, limit_seconds=0), seconds=0.0, processor_seconds=0.0, batches=1000))
