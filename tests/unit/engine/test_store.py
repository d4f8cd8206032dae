"""The store never goes back in time, and knows what belongs to whom."""

import copy

from hypothesis import given
from hypothesis import strategies as st

from modelmill_operator.actions import Object
from modelmill_operator.engine.kinds import Id, Key
from modelmill_operator.engine.store import Store
from tests.unit.engine.fake_api import FakeApi, job, pod

KEY = Key("TrainingJob", "default", "a")


def _versioned(uid: str, version: int) -> Object:
    item = job()
    item["metadata"] |= {"uid": uid, "resourceVersion": str(version)}
    return item


def test_an_older_version_changes_nothing() -> None:
    store = Store()
    assert store.upsert(_versioned("u", 9))
    assert not store.upsert(_versioned("u", 10 - 1))
    assert not store.upsert(_versioned("u", 2))
    assert store.upsert(_versioned("u", 10))


def test_a_deleted_incarnation_never_comes_back() -> None:
    store = Store()
    store.upsert(_versioned("u", 1))
    assert store.remove(_versioned("u", 2))
    assert not store.upsert(_versioned("u", 3))
    assert store.resource(KEY) is None


def test_the_end_of_an_old_incarnation_spares_the_new_one() -> None:
    store = Store()
    store.upsert(_versioned("old", 1))
    store.upsert(_versioned("new", 5))
    assert not store.remove(_versioned("old", 4))
    resource = store.resource(KEY)
    assert resource and resource["metadata"]["uid"] == "new"


def test_children_of_an_older_incarnation_are_strangers() -> None:
    api, store = FakeApi(), Store()
    old = api.put(job())
    store.upsert(api.put(pod("a-worker-0", owner=old)))
    new = api.put(job())
    store.upsert(new)
    mine = api.put(pod("a-worker-1", owner=new))
    store.upsert(mine)
    assert [child["metadata"]["name"] for child in store.children(KEY, uid=new["metadata"]["uid"])] == ["a-worker-1"]


def test_a_ghost_is_what_a_later_complete_list_does_not_have() -> None:
    api, store = FakeApi(), Store()
    kept, gone = api.put(job("kept")), api.put(job("gone"))
    version = api.new_version()
    later = api.put(job("later"))
    for item in (kept, gone, later):
        store.upsert(item)
    ghosts = store.ghosts("TrainingJob", listed=[kept], version=version, namespace=None)
    assert [ghost["metadata"]["name"] for ghost in ghosts] == ["gone"]


def test_what_no_planner_reads_is_not_kept() -> None:
    api, store = FakeApi(), Store()
    owner = api.put(job())
    item = api.put(pod("p", owner=owner))
    item["metadata"] |= {
        "managedFields": [{}],
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "x": "y"},
    }
    store.upsert(item)
    kept = store.get(Id("Pod", "default", "p"))
    assert kept and kept["spec"] == {"nodeName": "n1"}
    assert "managedFields" not in kept["metadata"] and kept["metadata"]["annotations"] == {"x": "y"}


@given(st.lists(st.tuples(st.sampled_from(["put", "delete", "recreate"]), st.integers(0, 2)), max_size=12), st.randoms())
def test_whatever_the_order_of_arrival_the_store_ends_as_the_api_server(history: list[tuple[str, int]], random: object) -> None:
    api, store = FakeApi(), Store()
    facts: list[tuple[str, Object]] = []
    for what, number in history:
        name = f"j{number}"
        known = api.objects.get(("TrainingJob", "default", name))
        if what != "put" and known is not None:
            api.take("TrainingJob", name)
            facts.append(("DELETED", {**known, "metadata": known["metadata"] | {"resourceVersion": str(api.new_version())}}))
        if what != "delete":
            known = api.objects.get(("TrainingJob", "default", name))
            uid = {"uid": known["metadata"]["uid"]} if known else {}
            item = job(name)
            item["metadata"] |= uid
            facts.append(("MODIFIED", api.put(item)))
    random.shuffle(facts)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
    for event, item in facts:
        store.remove(copy.deepcopy(item)) if event == "DELETED" else store.upsert(copy.deepcopy(item))
    known_now = {key.name: found["metadata"]["resourceVersion"] for key in store.resources() if (found := store.resource(key))}
    assert known_now == {place[2]: item["metadata"]["resourceVersion"] for place, item in api.objects.items()}
