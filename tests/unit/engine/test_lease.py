"""Who may write: never two at a time, whatever the clocks and the network do."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelmill_operator.engine.client import Unavailable
from modelmill_operator.engine.lease import Lease, LeaseLost
from modelmill_operator.settings import Settings
from tests.unit.engine.fake_api import Clock, FakeApi

SETTINGS = Settings(lease_duration=4)


def _lease(api: FakeApi, clock: Clock, identity: str) -> Lease:
    return Lease(api, SETTINGS, identity=identity, clock=clock)


def _step(lease: Lease) -> None:
    # The fake API never waits, so no event loop is needed: thousands of steps take a second.
    with suppress(StopIteration):
        lease.step().send(None)


def _unavailable(verb: str, kind: str) -> None:
    raise Unavailable("gone")


def test_a_free_lease_is_taken_and_closes_the_fence_before_it_runs_out() -> None:
    api, clock = FakeApi(), Clock()
    lease = _lease(api, clock, "one")
    _step(lease)
    assert lease.remaining() == pytest.approx(3.6)
    clock.now += 3.7
    assert lease.remaining() == 0


def test_a_standby_takes_over_only_after_the_whole_duration_without_a_renewal() -> None:
    api, clock = FakeApi(), Clock()
    leader, standby = _lease(api, clock, "one"), _lease(api, clock, "two")
    _step(leader)
    _step(standby)
    for _ in range(5):
        clock.now += 1
        _step(leader)
        _step(standby)
    assert standby.remaining() == 0
    clock.now += 3.9
    _step(standby)
    assert standby.remaining() == 0
    clock.now += 0.1
    _step(standby)
    assert standby.remaining() > 0
    assert leader.remaining() == 0


def test_a_leader_that_finds_another_holder_is_lost() -> None:
    api, clock = FakeApi(), Clock()
    leader, standby = _lease(api, clock, "one"), _lease(api, clock, "two")
    _step(leader)
    _step(standby)
    clock.now += 4
    _step(standby)
    with pytest.raises(Exception, match="precondition"):
        _step(leader)
    assert leader.remaining() == 0
    with pytest.raises(LeaseLost, match="two"):
        _step(leader)


def test_a_leader_that_was_cut_off_goes_on_when_nobody_took_its_place() -> None:
    api, clock = FakeApi(), Clock()
    leader = _lease(api, clock, "one")
    _step(leader)
    api.before = _unavailable
    for _ in range(120):
        clock.now += 1
        with pytest.raises(Unavailable):
            _step(leader)
    assert leader.remaining() == 0
    api.before = lambda verb, kind: None
    _step(leader)
    assert leader.remaining() > 0


def test_a_renewal_is_trusted_from_before_it_was_sent() -> None:
    api, clock = FakeApi(), Clock()
    leader = _lease(api, clock, "one")

    def slow(verb: str, kind: str) -> None:
        if verb == "replace":
            clock.now += 1

    api.before = slow
    _step(leader)
    assert leader.remaining() == pytest.approx(2.6)


def test_a_released_lease_is_taken_at_once() -> None:
    api, clock = FakeApi(), Clock()
    leader, standby = _lease(api, clock, "one"), _lease(api, clock, "two")
    _step(leader)
    _step(standby)
    asyncio.run(leader.release())
    assert leader.remaining() == 0
    _step(standby)
    assert standby.remaining() > 0


_FAULTS: dict[str, Callable[[str], bool]] = {
    "none": lambda verb: False,
    "reads fail": lambda verb: verb == "get",
    "writes fail": lambda verb: verb == "replace",
    "all fail": lambda verb: True,
}


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.floats(0, 3), st.floats(0, 1.2), st.sampled_from(sorted(_FAULTS))),
        max_size=40,
    )
)
def test_two_never_lead_at_the_same_time(history: list[tuple[int, float, float, str]]) -> None:
    api, clock = FakeApi(), Clock()
    leases = [_lease(api, clock, f"replica-{number}") for number in range(3)]
    lost: set[int] = set()
    for number, pause, latency, fault in history:
        clock.now += pause

        def before(verb: str, kind: str, *, fault: str = fault, latency: float = latency) -> None:
            clock.now += latency
            if _FAULTS[fault](verb):
                raise Unavailable("gone")

        api.before = before
        if number not in lost:
            try:
                _step(leases[number])
            except LeaseLost:
                lost.add(number)
            except Exception as error:
                assert "gone" in str(error) or "precondition" in str(error) or "exists" in str(error)
        assert sum(lease.remaining() > 0 for lease in leases) <= 1
