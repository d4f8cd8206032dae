"""The autoscaler's arithmetic on a clock of its own. Scraping pods and writing replicas is the engine's, and not here."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from modelmill_operator.serving.autoscaler import Autoscaler, Limits


def scaler(**changes: float) -> Autoscaler:
    limits: dict[str, float] = {"min_replicas": 1, "max_replicas": 10, "target": 10.0, **changes}
    return Autoscaler(limits=Limits(**limits))  # type: ignore[arg-type]  # a table of numbers


def run(autoscaler: Autoscaler, loads: list[float], *, ready: int, start: float = 0.0) -> list[int]:
    """One tick of 2 s a load; the pods follow each decision at once."""
    replicas = []
    for tick, load in enumerate(loads):
        autoscaler.observe(start + 2.0 * tick, concurrency=load)
        decision = autoscaler.decide(start + 2.0 * tick, ready=ready)
        assert decision is not None
        ready = decision.replicas
        replicas.append(ready)
    return replicas


def test_without_a_sample_there_is_no_decision() -> None:
    assert scaler().decide(0.0, ready=3) is None


def test_samples_that_left_the_window_are_no_reason_to_decide() -> None:
    autoscaler = scaler()
    autoscaler.observe(0.0, concurrency=5.0)
    assert autoscaler.decide(61.0, ready=1) is None


def test_a_steady_load_gets_its_share_at_seventy_percent() -> None:
    assert run(scaler(), [21.0] * 40, ready=1)[-1] == 3


def test_a_burst_is_answered_within_the_panic_window() -> None:
    autoscaler = scaler()
    run(autoscaler, [1.0] * 30, ready=1)
    assert run(autoscaler, [40.0] * 3, ready=1, start=60.0)[-1] == 6


def test_in_panic_nothing_is_taken_away_until_a_stable_window_has_passed() -> None:
    autoscaler = scaler()
    peak = run(autoscaler, [40.0] * 5, ready=1)[-1]
    after = run(autoscaler, [0.0] * 26, ready=peak, start=10.0)
    assert set(after) == {peak}


def test_after_the_load_has_gone_pods_halve_down_to_the_minimum() -> None:
    autoscaler = scaler()
    peak = run(autoscaler, [40.0] * 5, ready=1)[-1]
    after = run(autoscaler, [0.0] * 60, ready=peak, start=10.0)
    assert after[-1] == 1
    assert all(later >= earlier // 2 for earlier, later in itertools.pairwise(after))


def test_a_restarted_autoscaler_does_not_take_pods_away_at_first() -> None:
    assert set(run(scaler(), [0.0] * 29, ready=4)) == {4}


def test_scale_down_waits_for_the_delay() -> None:
    autoscaler = scaler(scale_down_delay_seconds=100.0, stable_window_seconds=6.0)
    peak = run(autoscaler, [20.0] * 5, ready=1)[-1]
    after = run(autoscaler, [0.0] * 60, ready=peak, start=10.0)
    assert after[45] == peak
    assert after[-1] == 1


@given(
    loads=st.lists(st.floats(min_value=0, max_value=1e6), min_size=1, max_size=60),
    ready=st.integers(min_value=0, max_value=50),
    low=st.integers(min_value=1, max_value=5),
    more=st.integers(min_value=0, max_value=20),
)
def test_every_decision_is_within_the_limits(loads: list[float], ready: int, low: int, more: int) -> None:
    replicas = run(scaler(min_replicas=low, max_replicas=low + more), loads, ready=ready)
    assert all(low <= count <= low + more for count in replicas)


@given(load=st.floats(min_value=0.0, max_value=500.0), ready=st.integers(min_value=1, max_value=10))
def test_a_constant_load_comes_to_rest(load: float, ready: int) -> None:
    replicas = run(scaler(), [load] * 120, ready=ready)
    assert len(set(replicas[-20:])) == 1
