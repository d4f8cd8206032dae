"""The batch former's rules, with a made-up clock. Not here: threads, futures and cancelled clients (test_batching)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmill.serve.former import BatchFormer, Item, Policy

LATENCY = 0.01


class Named(Item):
    def __init__(self, name: str, key: str, rows: int, arrived: float, length: int, priority: int) -> None:
        super().__init__(key, rows, arrived, length, priority)
        self.name = name


def item(name: str, *, key: str = "k", rows: int = 1, arrived: float = 0.0, length: int = 0, priority: int = 5) -> Named:
    return Named(name, key, rows, arrived, length, priority)


def former(*, max_rows: int = 4, queue_limit: int = 100, max_items: int = 0) -> BatchFormer[Named]:
    return BatchFormer(Policy(max_rows=max_rows, max_latency_seconds=LATENCY, queue_limit=queue_limit, max_items=max_items))


def names(batch: tuple[Named, ...]) -> str:
    return "".join(item.name for item in batch)


def test_rows_are_counted_not_requests() -> None:
    queue = former(max_rows=4)
    for waiting in (item("a", rows=3), item("b", rows=1), item("c", rows=1)):
        assert queue.offer([waiting])
    assert names(queue.take(0.0)) == "ab"
    assert names(queue.take(0.0)) == "c"
    assert queue.take(0.0) == ()


def test_a_batch_may_be_limited_in_requests() -> None:
    queue = former(max_items=2)
    queue.offer([item(name) for name in "abc"])
    assert names(queue.take(0.0)) == "ab"


def test_different_keys_never_share_a_batch() -> None:
    queue = former()
    queue.offer([item("a", key="short"), item("b", key="long"), item("c", key="short")])
    assert names(queue.take(0.0)) == "ac"
    assert names(queue.take(0.0)) == "b"


def test_a_full_batch_overtakes_a_partial_one_until_that_has_waited_the_latency() -> None:
    for now, first in ((LATENCY / 2, "bcde"), (LATENCY, "a")):
        queue = former()
        queue.offer([item("a", key="slow")])
        queue.offer([item(name, key="busy", arrived=LATENCY / 4) for name in "bcde"])
        assert names(queue.take(now)) == first


def test_priorities_go_first_and_equals_in_their_order() -> None:
    queue = former(max_rows=2)
    queue.offer([item("a"), item("b"), item("c", priority=1), item("d", priority=9), item("e", priority=1)])
    assert [names(queue.take(0.0)) for _ in range(3)] == ["ce", "ab", "d"]


def test_a_full_batch_does_not_overtake_a_higher_priority() -> None:
    queue = former()
    queue.offer([item(name, key="busy") for name in "bcde"])
    queue.offer([item("a", key="urgent", priority=1, arrived=LATENCY / 4)])
    assert names(queue.take(LATENCY / 2)) == "a"


def test_similar_lengths_go_together_and_the_first_is_among_them() -> None:
    queue = former(max_rows=4)
    queue.offer([item(name, length=length) for name, length in (("a", 100), ("b", 10), ("c", 11), ("d", 90), ("e", 9))])
    assert [set(names(queue.take(0.0))) for _ in range(2)] == [{"a", "d"}, {"b", "c", "e"}]


def test_a_row_that_nothing_resembles_has_its_turn_while_others_keep_coming() -> None:
    queue = BatchFormer[Named](Policy(max_rows=8, max_latency_seconds=LATENCY, queue_limit=1000, window=32))
    queue.offer([item("usual", length=10) for _ in range(64)])
    queue.offer([item("odd", length=1000)])
    for turn in range(1, 9 + 1):
        queue.offer([item("usual", length=10, arrived=0.001 * turn) for _ in range(8)])
        if "odd" in names(queue.take(0.001 * turn)):
            break
    assert turn == 9, "after the eight batches of those that came before it"


def test_the_queue_is_bounded_and_takes_a_request_whole_or_not_at_all() -> None:
    queue = former(queue_limit=2)
    assert queue.offer([item("a"), item("b"), item("c")])
    assert not queue.offer([item("d")])
    assert len(queue) == 3


def test_members_of_a_failed_batch_come_back_alone_and_first() -> None:
    queue = former()
    queue.offer([item("a"), item("b")])
    failed = queue.take(0.0)
    queue.offer([item("c")])
    queue.retry(failed)
    assert [names(queue.take(0.0)) for _ in range(3)] == ["a", "b", "c"]


def test_an_item_larger_than_a_batch_runs_alone() -> None:
    queue = former(max_rows=4)
    queue.offer([item("a", rows=5), item("b")])
    assert [names(queue.take(0.0)) for _ in range(2)] == ["a", "b"]


def test_an_item_without_rows_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="0 rows, at least 1 is needed"):
        former().offer([item("a", rows=0)])


Step = tuple[str, str, int]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.sampled_from("xyz"), st.integers(1, 4)),
        st.tuples(st.just("take"), st.just(""), st.just(0)),
        st.tuples(st.just("fail"), st.just(""), st.just(0)),
        st.tuples(st.just("leave"), st.just(""), st.integers(0, 50)),
        st.tuples(st.just("wait"), st.just(""), st.integers(1, 10)),
    ),
    max_size=80,
)


@given(steps=STEPS, max_rows=st.integers(4, 8), max_items=st.integers(0, 3))
def test_whatever_happens_every_item_leaves_exactly_once_and_the_rules_hold(
    steps: list[Step], max_rows: int, max_items: int
) -> None:
    queue = former(max_rows=max_rows, queue_limit=10, max_items=max_items)
    now, number = 0.0, 0
    waiting: dict[Named, bool] = {}
    """Everything that must still come out, and whether it has to run alone."""

    def take() -> tuple[Named, ...]:
        batch = queue.take(now)
        assert bool(batch) == bool(waiting), "an idle executor gets work whenever there is some"
        if not batch:
            return batch
        alone = [waiting.pop(member) for member in batch]
        assert len({member.key for member in batch}) == 1
        assert sum(member.rows for member in batch) <= max_rows
        assert len(batch) <= (max_items or len(batch))
        assert not any(alone) or len(batch) == 1
        oldest = min((other for other in waiting if other.key != batch[0].key), key=lambda o: o.arrived, default=None)
        if oldest and not any(alone) and now - oldest.arrived >= LATENCY:
            assert batch[0].arrived <= oldest.arrived, "nobody waits longer than the latency behind a younger batch"
        same_key = [other.arrived for other in waiting if other.key == batch[0].key and not waiting[other]]
        if not any(alone):
            assert all(member.arrived <= min(same_key, default=now) for member in batch)
        return batch

    for what, key, amount in steps:
        if what == "offer":
            number += 1
            offered = item(str(number), key=key, rows=amount, arrived=now)
            if queue.offer([offered]):
                waiting[offered] = False
        elif what == "wait":
            now += amount / 1000
        elif what == "leave" and waiting:
            gone = list(waiting)[amount % len(waiting)]
            assert queue.remove(gone)
            del waiting[gone]
        elif what in ("take", "fail"):
            batch = take()
            if what == "fail" and len(batch) > 1:
                queue.retry(batch)
                waiting.update(dict.fromkeys(batch, True))
        assert len(queue) == len(waiting)
    while waiting:
        take()
