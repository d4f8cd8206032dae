"""Gates as sentences: what passes, what does not, and what is said."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmill.contract.jobfile import Gate
from modelmill.evaluate.gates import Baseline, Measurement, judge

values = st.floats(0, 1)
STABLE = "stable"


def old(**metrics: float) -> Baseline:
    return Baseline(version=3, variant="dense", measurement=Measurement(metrics=metrics))


def gate(metric: str = "accuracy", **bounds: float | str) -> Gate:
    return Gate(metric=metric, **bounds)  # type: ignore[arg-type]  # tables of bounds


UNCHANGED = gate(no_worse_than=STABLE)
BROKEN = Baseline(version=3, variant="dense", measurement=Measurement(failure="DigestMismatch: dense.safetensors"))
CASES: list[tuple[str, Gate, dict[str, float], Baseline | None, str | None]] = [
    ("at the minimum passes", gate(min=0.9), {"accuracy": 0.9}, None, None),
    ("below the minimum fails", gate(min=0.9), {"accuracy": 0.85}, None, "accuracy 0.85 is below the minimum 0.9"),
    ("at the maximum passes", gate("loss", max=0.5), {"loss": 0.5}, None, None),
    ("above the maximum fails", gate("loss", max=0.5), {"loss": 0.75}, None, "loss 0.75 is above the maximum 0.5"),
    ("an empty channel passes", UNCHANGED, {"accuracy": 0.1}, None, None),
    ("as good as the channel passes", UNCHANGED, {"accuracy": 0.9}, old(accuracy=0.9), None),
    ("better than the channel passes", UNCHANGED, {"accuracy": 0.95}, old(accuracy=0.9), None),
    (
        "worse than the channel fails",
        UNCHANGED,
        {"accuracy": 0.9712},
        old(accuracy=0.98),
        "accuracy 0.9712 is worse than 0.98 of version 3 (dense) in channel 'stable'",
    ),
    (
        "worse within the tolerance passes",
        gate(no_worse_than=STABLE, tolerance=0.01),
        {"accuracy": 0.9712},
        old(accuracy=0.98),
        None,
    ),
    (
        "worse beyond the tolerance fails",
        gate(no_worse_than=STABLE, tolerance=0.005),
        {"accuracy": 0.9712},
        old(accuracy=0.98),
        "accuracy 0.9712 is worse than 0.98 of version 3 (dense) in channel 'stable' by more than 0.005",
    ),
    ("less loss than the channel passes", gate("loss", no_worse_than=STABLE), {"loss": 0.1}, old(loss=0.2), None),
    (
        "more loss than the channel fails",
        gate("loss", no_worse_than=STABLE),
        {"loss": 0.3},
        old(loss=0.2),
        "loss 0.3 is worse than 0.2 of version 3 (dense) in channel 'stable'",
    ),
    ("a metric that was not measured fails its minimum", gate(min=0.0), {}, None, "accuracy has no value: it was not measured"),
    ("a metric that was not measured fails also an empty channel", UNCHANGED, {}, None, "accuracy has no value"),
    ("a metric that was not measured fails against the channel", UNCHANGED, {}, old(accuracy=0.5), "accuracy has no value"),
    (
        "a channel that lacks the metric fails",
        UNCHANGED,
        {"accuracy": 1.0},
        old(f1=0.5),
        "accuracy of version 3 (dense) in channel 'stable' has no value to compare with: it was not measured; promote a version",
    ),
    (
        "a channel that cannot be measured fails",
        UNCHANGED,
        {"accuracy": 1.0},
        BROKEN,
        "no value to compare with: DigestMismatch: dense.safetensors; promote a version that can be evaluated",
    ),
]


@pytest.mark.parametrize(("bound", "metrics", "baseline", "told"), [pytest.param(*case[1:], id=case[0]) for case in CASES])
def test_a_bound_decides(bound: Gate, metrics: dict[str, float], baseline: Baseline | None, told: str | None) -> None:
    verdict = judge("int8", Measurement(metrics=metrics), gates=[bound], baselines={STABLE: baseline})
    assert verdict.passed == (told is None)
    assert (verdict.reason is None) == (told is None)
    assert told is None or told in (verdict.reason or "")
    assert [result.passed for result in verdict.results] == [told is None]


def test_results_carry_the_numbers() -> None:
    gates = [gate(min=0.9, max=1.0, no_worse_than=STABLE, tolerance=0.25)]
    verdict = judge("v", Measurement(metrics={"accuracy": 0.5}), gates=gates, baselines={STABLE: old(accuracy=0.75)})
    assert [(r.bound, r.value, r.limit, r.baseline, r.passed) for r in verdict.results] == [
        ("min", 0.5, 0.9, None, False),
        ("max", 0.5, 1.0, None, True),
        ("noWorseThan:stable", 0.5, 0.5, 0.75, True),
    ]


def test_all_missed_bounds_are_told_together() -> None:
    verdict = judge(
        "v", Measurement(metrics={"accuracy": 0.5, "f1": 0.4}), gates=[gate(min=0.9), gate("f1", min=0.8)], baselines={}
    )
    assert verdict.reason == "accuracy 0.5 is below the minimum 0.9; f1 0.4 is below the minimum 0.8"


def test_a_gate_of_another_variant_does_not_count() -> None:
    gates = [gate(variant="dense", min=0.99), gate(min=0.5)]
    verdict = judge("int8", Measurement(metrics={"accuracy": 0.9}), gates=gates, baselines={})
    assert verdict.passed
    assert len(verdict.results) == 1


def test_without_gates_what_was_measured_passes() -> None:
    assert judge("v", Measurement(), gates=[], baselines={}).passed


def test_a_variant_that_could_not_be_measured_fails_even_without_gates() -> None:
    verdict = judge("v", Measurement(failure="BadArtifact: tensor 'w'"), gates=[], baselines={})
    assert not verdict.passed
    assert verdict.reason == "it could not be measured: BadArtifact: tensor 'w'"


def test_why_a_metric_has_no_value_is_told() -> None:
    measurement = Measurement(unmeasured={"auc": "class 3 does not occur"})
    assert (
        judge("v", measurement, gates=[gate("auc", min=0.5)], baselines={}).reason == "auc has no value: class 3 does not occur"
    )


@given(value=values, better=values, minimum=values, baseline=values, tolerance=values)
def test_a_better_value_never_fails_where_a_worse_one_passed(
    value: float, better: float, minimum: float, baseline: float, tolerance: float
) -> None:
    low, high = sorted((value, better))
    bounds = [gate(min=minimum), gate(no_worse_than=STABLE, tolerance=tolerance)]
    for bound in bounds:
        worse, good = (
            judge("v", Measurement(metrics={"accuracy": v}), gates=[bound], baselines={STABLE: old(accuracy=baseline)}).passed
            for v in (low, high)
        )
        assert good or not worse


@given(value=values, tolerance=values, metric=st.sampled_from(["accuracy", "recall", "f1", "auc", "loss"]))
def test_a_model_is_never_worse_than_itself(value: float, tolerance: float, metric: str) -> None:
    bound = gate(metric, no_worse_than=STABLE, tolerance=tolerance)
    assert judge("v", Measurement(metrics={metric: value}), gates=[bound], baselines={STABLE: old(**{metric: value})}).passed


@given(st.lists(st.tuples(values, values), max_size=5))
def test_a_variant_passes_exactly_when_every_bound_does(bounds: list[tuple[float, float]]) -> None:
    gates = [gate(min=minimum, max=maximum) for minimum, maximum in bounds]
    verdict = judge("v", Measurement(metrics={"accuracy": 0.5}), gates=gates, baselines={})
    assert verdict.passed == all(result.passed for result in verdict.results)
    assert verdict.passed == all(minimum <= 0.5 <= maximum for minimum, maximum in bounds)


@pytest.mark.parametrize("bound", [gate(min=0.0), gate(max=1.0), UNCHANGED])
def test_a_value_that_is_no_number_passes_nothing(bound: Gate) -> None:
    measurement = Measurement(metrics={"accuracy": math.nan})
    assert not judge("v", measurement, gates=[bound], baselines={STABLE: old(accuracy=0.5)}).passed
