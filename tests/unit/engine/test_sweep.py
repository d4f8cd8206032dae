"""What no watch told is found by comparing lists; and what servers say becomes a number of replicas."""

import asyncio

import pytest

from modelmill_operator.actions import Plan
from modelmill_operator.engine.kinds import Key
from modelmill_operator.engine.scaling import Load, moved_to, total_concurrency
from tests.unit.engine.fake_api import FakeApi, job, pod
from tests.unit.engine.harness import Harness


def _idle(api: FakeApi) -> Harness:
    return Harness(api, lambda resource, children: Plan())


def test_a_sweep_finds_ghosts_and_misses_and_has_their_owners_looked_at() -> None:
    api = FakeApi()
    owner = api.put(job())
    api.put(pod("ghost", owner=owner))
    engine = _idle(api)
    asyncio.run(engine.settle())
    api.take("Pod", "ghost")
    api.put(pod("miss", owner=owner))
    api.put(job("unseen"))
    assert asyncio.run(engine.sweeper.sweep()) == 3
    children = engine.store.children(Key("TrainingJob", "default", "a"), uid=owner["metadata"]["uid"])
    assert [child["metadata"]["name"] for child in children] == ["miss"]
    assert {engine.queue.take(), engine.queue.take()} == {
        Key("TrainingJob", "default", "a"),
        Key("TrainingJob", "default", "unseen"),
    }
    assert asyncio.run(engine.sweeper.sweep()) == 0


def test_what_is_created_while_a_list_is_under_way_is_no_ghost() -> None:
    api = FakeApi()
    engine = _idle(api)
    asyncio.run(engine.sweeper.sweep())
    items, version = asyncio.run(api.list("TrainingJob"))
    engine.store.upsert(api.put(job("young")))
    assert engine.store.ghosts("TrainingJob", listed=items, version=int(version), namespace=None) == []


def test_an_object_deleted_before_a_sweep_but_told_late_does_not_come_back() -> None:
    api = FakeApi()
    late = api.put(job("late"))
    engine = _idle(api)
    asyncio.run(engine.sweeper.sweep())
    api.take("TrainingJob", "late")
    asyncio.run(engine.sweeper.sweep())
    assert not engine.store.upsert(late | {"metadata": late["metadata"] | {"resourceVersion": "999"}})


def _load(busy: float, uptime: float, *, version: int | None = None) -> Load:
    return Load(concurrency_seconds=busy, uptime_seconds=uptime, channel_version=version)


@pytest.mark.parametrize(
    ("before", "after", "pods", "expected"),
    [
        ({}, {"a": _load(5, 10)}, 1, None),
        ({"a": _load(5, 10)}, {"a": _load(11, 12)}, 1, 3.0),
        ({"a": _load(5, 10), "b": _load(0, 1)}, {"a": _load(11, 12), "b": _load(2, 3)}, 2, 4.0),
        ({"a": _load(5, 10)}, {"a": _load(11, 12)}, 3, 9.0),
        ({"a": _load(500, 100)}, {"a": _load(1, 2)}, 1, None),
    ],
    ids=["first round", "one pod", "two pods", "two of three did not answer", "started anew"],
)
def test_the_load_of_all_pods_is_averaged_since_the_round_before(
    before: dict[str, Load], after: dict[str, Load], pods: int, expected: float | None
) -> None:
    assert total_concurrency(before, after, pods=pods) == expected


@pytest.mark.parametrize(
    ("seen", "resolved", "expected"),
    [([3, 3], 2, 3), ([2, 3], 2, None), ([2, 2], 2, None), ([None], 2, None), ([3], None, None)],
)
def test_a_channel_has_moved_when_all_pods_that_know_agree(
    seen: list[int | None], resolved: int | None, expected: int | None
) -> None:
    loads = {str(number): _load(0, 1, version=version) for number, version in enumerate(seen)}
    assert moved_to(loads, resolved=resolved) == expected
