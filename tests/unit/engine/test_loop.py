"""Plans are carried out in order, as far as they go, and nothing is written twice."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmill_operator.actions import Apply, Create, Delete, Emit, Object, Plan, SetStatus
from modelmill_operator.engine.client import Refused, Unavailable
from modelmill_operator.engine.execute import merge_patch, without_none
from modelmill_operator.engine.kinds import Key
from tests.unit.engine.fake_api import FakeApi, job, pod
from tests.unit.engine.harness import Harness

KEY = Key("TrainingJob", "default", "a")


def _three_children(resource: Object, children: Sequence[Object]) -> Plan:
    """Two pods, made one after the other, and a ConfigMap; the state is told last."""
    names = {child["metadata"]["name"] for child in children}
    settings = pod("a-settings", owner=resource) | {"kind": "ConfigMap", "data": {"spec": str(resource["spec"])}}
    wanted = [pod(f"a-worker-{index}", owner=resource) for index in range(2)]
    creates = [Create(object=item) for item in wanted if item["metadata"]["name"] not in names]
    return Plan(actions=(Apply(object=settings), *creates, SetStatus(status={"pods": len(wanted), "gone": None})))


def test_a_plan_is_carried_out_in_order_and_a_second_look_writes_nothing() -> None:
    api = FakeApi()
    api.put(job())
    engine = Harness(api, _three_children)
    asyncio.run(engine.settle())
    assert api.writes == [("apply", "ConfigMap"), ("create", "Pod"), ("create", "Pod"), ("status", "TrainingJob")]
    engine.loop.look_at(KEY)
    asyncio.run(engine.drain())
    asyncio.run(Harness(api, _three_children).settle())
    assert len(api.writes) == 4


def test_the_first_failure_stops_a_plan_and_it_comes_back_later() -> None:
    api = FakeApi()
    api.put(job())

    def fail(verb: str, kind: str) -> None:
        if (verb, kind) == ("create", "Pod"):
            raise Unavailable("down", retry_after=7)

    api.before = fail
    engine = Harness(api, _three_children)
    asyncio.run(engine.settle())
    assert api.writes == [("apply", "ConfigMap")]
    api.before = lambda verb, kind: None
    engine.clock.now += 6.9
    asyncio.run(engine.drain())
    assert len(api.writes) == 1
    engine.clock.now += 0.2
    asyncio.run(engine.drain())
    assert len(api.writes) == 4


class _Killed(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("after", [False, True], ids=["before the server saw it", "after the server did it"])
@pytest.mark.parametrize("number", range(4))
def test_killed_at_any_write_the_next_life_ends_in_the_same_state(number: int, after: bool) -> None:
    api = FakeApi()
    api.put(job())

    def kill(verb: str, kind: str) -> None:
        if verb not in ("get", "list") and len(api.writes) == number + (1 if after else 0):
            raise _Killed

    api.before = kill
    engine = Harness(api, _three_children)

    async def one_life() -> None:
        await engine.sweeper.sweep()
        await engine.loop.reconcile(KEY)

    try:
        asyncio.run(one_life())
    except _Killed:
        pass
    api.before = lambda verb, kind: None
    asyncio.run(Harness(api, _three_children).settle())
    assert sorted(place[2] for place in api.objects) == ["a", "a-settings", "a-worker-0", "a-worker-1"]
    assert api.objects["TrainingJob", "default", "a"]["status"] == {"pods": 2}
    assert len(api.writes) == 4


def test_a_child_that_exists_already_and_is_ours_counts_as_created() -> None:
    api = FakeApi()
    owner = api.put(job())
    engine = Harness(api, _three_children)
    asyncio.run(engine.sweeper.sweep())
    api.put(pod("a-worker-0", owner=owner))
    engine.loop.start_leading()
    asyncio.run(engine.drain())
    assert {place[2] for place in api.objects} == {"a", "a-settings", "a-worker-0", "a-worker-1"}


def test_a_stranger_with_the_name_of_a_child_is_neither_taken_nor_touched() -> None:
    api = FakeApi()
    api.put(job())
    stranger = api.put({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a-worker-0"}, "spec": {}})
    engine = Harness(api, _three_children)
    asyncio.run(engine.settle())
    assert api.objects["Pod", "default", "a-worker-0"] == stranger
    assert ("Pod", "default", "a-worker-1") not in api.objects
    api.take("Pod", "a-worker-0")
    engine.clock.now += 2
    asyncio.run(engine.drain())
    assert ("Pod", "default", "a-worker-1") in api.objects


def test_only_the_incarnation_that_was_meant_is_deleted() -> None:
    api = FakeApi()
    owner = api.put(job())
    old = api.put(pod("a-worker-0", owner=owner))
    engine = Harness(api, lambda resource, children: Plan())
    asyncio.run(engine.sweeper.sweep())
    replaced = api.put(pod("a-worker-0", owner=owner))
    delete = Delete(kind="Pod", namespace="default", name="a-worker-0", uid=old["metadata"]["uid"])
    asyncio.run(engine.executor.execute(owner, [delete], give_way=lambda: False))
    assert api.objects["Pod", "default", "a-worker-0"] == replaced


def test_a_status_is_written_only_onto_what_it_was_planned_from() -> None:
    api = FakeApi()
    api.put(job(steps=1))
    engine = Harness(api, lambda resource, children: Plan(actions=(SetStatus(status={"seen": resource["spec"]["steps"]}),)))
    asyncio.run(engine.sweeper.sweep())
    changed = job(steps=2)
    changed["metadata"]["uid"] = api.objects["TrainingJob", "default", "a"]["metadata"]["uid"]
    news = api.put(changed)
    engine.loop.start_leading()
    asyncio.run(engine.drain())
    assert "status" not in api.objects["TrainingJob", "default", "a"]
    engine.store.upsert(news)
    engine.clock.now += 2
    asyncio.run(engine.drain())
    assert api.objects["TrainingJob", "default", "a"]["status"] == {"seen": 2}


def test_a_refusal_is_told_to_the_user_and_to_the_planner() -> None:
    api = FakeApi()
    api.put(job())

    def refuse(verb: str, kind: str) -> None:
        if (verb, kind) == ("create", "Pod"):
            raise Refused("exceeded quota: pods=2", status=403, reason="Forbidden")

    api.before = refuse
    engine = Harness(api, _three_children)

    async def run() -> None:
        await engine.settle()
        writer = asyncio.create_task(engine.events.run())
        engine.clock.now += 2
        await engine.drain()
        writer.cancel()

    asyncio.run(run())
    assert engine.seen_signals.refused == "exceeded quota: pods=2"
    told = [item for place, item in api.objects.items() if place[0] == "Event"]
    assert [(item["reason"], item["message"]) for item in told] == [("ApiRefused", "exceeded quota: pods=2")]


def test_nothing_is_written_while_the_fence_is_closed() -> None:
    api = FakeApi()
    api.put(job())
    engine = Harness(api, _three_children)
    engine.gate.left = 0
    asyncio.run(engine.settle())
    assert api.writes == []
    engine.gate.left = 1.5
    asyncio.run(engine.drain())
    assert len(api.writes) == 4
    assert max(timeout for timeout in api.timeouts if timeout is not None) == 1.5


@pytest.mark.parametrize("spec", [{"managedBy": "kueue.x-k8s.io/multikueue"}])
def test_what_another_controller_manages_is_left_alone(spec: Object) -> None:
    api = FakeApi()
    api.put(job(**spec))
    asyncio.run(Harness(api, _three_children).settle())
    assert api.writes == []


def test_a_planner_that_fails_is_tried_again_and_harms_no_other_resource(caplog: pytest.LogCaptureFixture) -> None:
    api = FakeApi()
    api.put(job("a"))
    api.put(job("b"))

    def plan(resource: Object, children: Sequence[Object]) -> Plan:
        if resource["metadata"]["name"] == "a":
            raise ZeroDivisionError
        return Plan(actions=(SetStatus(status={"fine": True}),))

    engine = Harness(api, plan)
    asyncio.run(engine.settle())
    assert api.objects["TrainingJob", "default", "b"]["status"] == {"fine": True}
    assert "TrainingJob default/a: failed, again in" in caplog.text
    engine.clock.now += 2
    assert engine.waiting(KEY)


def test_repeats_are_counted_on_one_event_and_a_chatterbox_is_cut_short() -> None:
    api = FakeApi()
    resource = api.put(job())
    engine = Harness(api, lambda resource, children: Plan())

    async def run() -> None:
        writer = asyncio.create_task(engine.events.run())
        for _ in range(5):
            engine.events.emit(resource, Emit(type="Normal", reason="Started", message="go"))
            await asyncio.sleep(0)
        engine.clock.now += 61
        engine.events.emit(resource, Emit(type="Normal", reason="Started", message="go"))
        for number in range(40):
            engine.events.emit(resource, Emit(type="Normal", reason="Noise", message=str(number)))
        for _ in range(50):
            await asyncio.sleep(0)
        writer.cancel()

    asyncio.run(run())
    told = [item for place, item in api.objects.items() if place[0] == "Event"]
    assert [item["count"] for item in told if item["reason"] == "Started"] == [6]
    assert len([item for item in told if item["reason"] == "Noise"]) == 10
    assert api.requests.count(("create", "Event")) == 11


def test_an_event_of_an_earlier_life_is_counted_up_not_told_twice() -> None:
    api = FakeApi()
    resource = api.put(job())

    async def life() -> None:
        engine = Harness(api, lambda resource, children: Plan())
        writer = asyncio.create_task(engine.events.run())
        engine.events.emit(resource, Emit(type="Warning", reason="Failed", message="no data"))
        for _ in range(5):
            await asyncio.sleep(0)
        writer.cancel()

    asyncio.run(life())
    asyncio.run(life())
    told = [item for place, item in api.objects.items() if place[0] == "Event"]
    assert [item["count"] for item in told] == [2]


_values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["", "x"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
_objects = st.dictionaries(st.sampled_from("abc"), _values, max_size=3)


@given(_objects, _objects)
def test_the_patch_turns_what_is_there_into_what_is_wanted(before: Object, wanted: Object) -> None:
    from tests.unit.engine.fake_api import _merged

    before, wanted = without_none(before), without_none(wanted)
    patch = merge_patch(before, wanted)
    assert _merged(before, patch or {}) == wanted
    assert (patch is None) == (before == wanted)


def test_new_resources_get_their_first_child_before_others_get_their_second() -> None:
    api = FakeApi()
    for number in range(5):
        api.put(job(f"j{number}"))

    def plan(resource: Object, children: Sequence[Object]) -> Plan:
        names = {child["metadata"]["name"] for child in children}
        wanted = [pod(f"{resource['metadata']['name']}-{index}", owner=resource) for index in range(2)]
        creates = [Create(object=item) for item in wanted if item["metadata"]["name"] not in names]
        return Plan(actions=(*creates, SetStatus(status={"pods": 2})))

    asyncio.run(Harness(api, plan).settle(rounds=500))
    assert api.writes[:4] == [("create", "Pod")] * 4
    made = [place[2] for place in api.objects if place[0] == "Pod"]
    assert {name[:2] for name in made[:5]} == {f"j{number}" for number in range(5)}
    assert all(api.objects["TrainingJob", "default", f"j{number}"]["status"] == {"pods": 2} for number in range(5))
    assert len(api.writes) == 15
