"""Several batches at once: each instance has a batch to itself, and there are as many as bring something."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from modelmill.serve.executor import Executor
from modelmill.serve.model import TorchModel
from modelmill.serve.rows import Rows
from modelmill.serve.warmup import Warm, warm_up
from tests.unit.serve.support import DOUBLE, running
from tests.unit.serve.test_http import eventually


class Meeting(nn.Module):
    """Goes on when as many are there as shall meet, or not at all; zeros pass."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.there = Barrier(count)
        self.last = torch.zeros(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not x.any():
            # So slow that it runs in a thread.
            time.sleep(0.002)
            return x
        self.last = x
        self.there.wait()
        return self.last * 2


class Barrier:
    """Shared by copies of a module."""

    def __init__(self, count: int) -> None:
        self._barrier = threading.Barrier(count, timeout=10)

    def wait(self) -> None:
        self._barrier.wait()

    def __deepcopy__(self, memo: object) -> "Barrier":
        return self


def test_batches_meet_in_several_instances_and_each_keeps_what_is_its_own() -> None:
    module = Meeting(2)
    with running(module, instances=2, batcher_rows=1) as server, ThreadPoolExecutor(4) as clients:
        for _ in range(3):
            answers = list(clients.map(lambda i: server.predict([[i, 0, 0]]), [1.0, 2.0, 3.0, 4.0]))
            assert [answer["predictions"][0][0] for _, answer in answers] == [2.0, 4.0, 6.0, 8.0]
        assert server.metric("executions_total") == 12


def test_a_failing_instance_is_used_again() -> None:
    def failing(x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.002)
        if (x == 666).any():
            raise ValueError("no")
        return x * 2

    with running(failing, instances=2) as server, ThreadPoolExecutor(8) as clients:
        values = [666.0, 1.0] * 8
        answers = list(clients.map(lambda value: server.predict([[value, 0, 0]])[0], values))
        assert answers == [500, 200] * 8
        assert server.admin("/load")[1]["inflight"] == 0


def test_copies_share_their_weights() -> None:
    linear = nn.Linear(3, 3).requires_grad_(False)
    model = TorchModel(linear, signature=DOUBLE)
    copy = model.copy()
    rows = Rows({"x": np.ones((2, 3), np.float32)}, 2)
    linear.weight.fill_(2.0)
    linear.bias.fill_(1.0)
    assert copy(rows).arrays["y"].tolist() == [[7.0] * 3] * 2


class Alone(nn.Module):
    """Takes 5 ms, of which others may use the processor or not."""

    def __init__(self, *, shared: bool) -> None:
        super().__init__()
        self.shared = shared

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.shared:
            time.sleep(0.005)
            return x
        with LOCK:
            time.sleep(0.005)
        return x


LOCK = threading.Lock()


@pytest.mark.parametrize(
    ("shared", "wanted", "cpus", "chosen"),
    [(True, 0, 2, 2), (False, 0, 2, 1), (True, 1, 2, 1), (False, 3, 2, 3), (True, 0, 1, 1)],
)
def test_there_are_as_many_as_bring_something_or_were_asked_for(shared: bool, wanted: int, cpus: int, chosen: int) -> None:
    before = torch.get_num_threads()
    try:
        model = TorchModel(Alone(shared=shared), signature=DOUBLE)
        warm: Warm = warm_up(model, max_rows=4, cpus=cpus, instances=wanted)
        assert warm.instances == chosen
        assert warm.threads == torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def test_one_hung_thread_of_several_is_noticed() -> None:
    executor, go = Executor(), threading.Event()
    prepared: list[int] = []
    executor.grow(3, prepare=prepared.append)

    async def hang() -> None:
        hung = asyncio.create_task(executor.call(lambda: go.wait(10)))
        await asyncio.sleep(0.2)  # the thread may begin later than the sleep
        assert await executor.call(lambda: 7) == 7
        assert executor.busy_seconds() >= 0.05
        go.set()
        assert await hung

    asyncio.run(hang())
    assert executor.busy_seconds() == 0
    assert executor.alive
    assert sorted(prepared) == [1, 2]
    executor.stop()
    assert eventually(lambda: not executor.alive)
