"""The queue: each key once, urgent ones first, failed ones later and later."""

import asyncio

from modelmill_operator.engine.budget import Budget
from modelmill_operator.engine.kinds import Key
from modelmill_operator.engine.queue import WorkQueue
from tests.unit.engine.fake_api import Clock

A, B, C = (Key("TrainingJob", "default", name) for name in "abc")


def _queue(clock: Clock | None = None) -> WorkQueue:
    return WorkQueue(retry_min=1.0, retry_max=60.0, clock=clock or Clock(), jitter=lambda: 0.5)


def test_a_key_waits_at_most_once() -> None:
    queue = _queue()
    queue.add(A)
    queue.add(A)
    assert queue.depth() == 1
    assert queue.take() == A
    assert queue.take() is None


def test_a_key_added_while_it_is_worked_on_comes_again_afterwards_and_not_before() -> None:
    queue = _queue()
    queue.add(A)
    queue.take()
    queue.add(A)
    assert queue.take() is None
    queue.done(A)
    assert queue.take() == A


def test_urgent_keys_go_first_also_when_they_waited_as_others_before() -> None:
    queue = _queue()
    for key in (A, B, C):
        queue.add(key)
    queue.add(C, urgent=True)
    assert [queue.take() for _ in range(4)] == [C, A, B, None]


def test_failures_double_the_delay_up_to_the_limit_and_success_forgets_them() -> None:
    queue = _queue()
    delays = []
    for _ in range(8):
        queue.add(A)
        queue.take()
        delays.append(queue.failed(A))
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60]
    queue.add(A)
    queue.take()
    queue.done(A)
    queue.add(A)
    queue.take()
    assert queue.failed(A) == 1


def test_a_failed_key_comes_back_when_its_time_has_come_however_often_it_changed_meanwhile() -> None:
    clock = Clock()
    queue = _queue(clock)
    queue.add(A)
    queue.take()
    queue.add(A)
    queue.failed(A, at_least=5.0)
    assert queue.take() is None
    clock.now += 4.9
    assert queue.take() is None
    clock.now += 0.2
    assert queue.take() == A


def test_of_two_delays_the_earlier_counts() -> None:
    clock = Clock()
    queue = _queue(clock)
    queue.add_later(A, 10)
    queue.add_later(A, 2)
    queue.add_later(A, 5)
    clock.now += 2
    assert queue.take() == A
    queue.done(A)
    clock.now += 100
    assert queue.take() is None


def test_the_oldest_age_is_that_of_the_key_that_waits_longest() -> None:
    clock = Clock()
    queue = _queue(clock)
    queue.add(A)
    clock.now += 3
    queue.add(B)
    assert queue.oldest_age() == 3
    queue.take()
    assert queue.oldest_age() == 0


def test_writes_beyond_the_burst_wait_for_their_token() -> None:
    clock = Clock()
    budget = Budget(rate=10, burst=3, clock=clock)
    assert [round(budget.reserve(), 3) for _ in range(5)] == [0, 0, 0, 0.1, 0.2]
    clock.now += 1
    assert budget.reserve() == 0


def test_waiting_workers_get_each_key_once_whether_it_comes_now_or_later() -> None:
    async def run() -> list[Key]:
        queue = WorkQueue(retry_min=1, retry_max=60)
        got: list[Key] = []

        async def worker() -> None:
            while True:
                key = await queue.get()
                got.append(key)
                queue.done(key)

        workers = [asyncio.create_task(worker()) for _ in range(3)]
        await asyncio.sleep(0)
        queue.add_later(C, 0.02)
        queue.add(A)
        queue.add(B)
        await asyncio.sleep(0.2)
        for one in workers:
            one.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        return got

    assert asyncio.run(run()) == [A, B, C]
