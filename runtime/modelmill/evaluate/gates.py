"""Compares what was measured with the gates. No I/O: a table of numbers in, a verdict in words and numbers out.

A bound passes when the value is at least `min`, at most `max`, or, for `noWorseThan`, not worse than the channel's
current version by more than the tolerance; better is higher, for `loss` lower. While the channel is empty, and the
metric was measured, `noWorseThan` passes. A metric without a value fails all its bounds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from modelmill.contract.jobfile import Gate
from modelmill.contract.result import GateResult
from modelmill.evaluate.names import LOWER_IS_BETTER


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The figures of one variant, or why there are none."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    unmeasured: Mapping[str, str] = field(default_factory=dict)
    failure: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The figures of the version that a channel points to."""

    version: int
    variant: str
    measurement: Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    passed: bool
    results: tuple[GateResult, ...]
    reason: str | None
    """Every bound that was missed, with its numbers."""


def judge(variant: str, measurement: Measurement, *, gates: Sequence[Gate], baselines: Mapping[str, Baseline | None]) -> Verdict:
    """`baselines` has an entry for each channel that a gate names; None is an empty channel."""
    judged = [
        bound for gate in gates if gate.variant in (None, variant) for bound in _bounds(gate, measurement, baselines=baselines)
    ]
    results = tuple(result for result, _ in judged)
    if measurement.failure is not None:
        return Verdict(passed=False, results=results, reason=f"it could not be measured: {measurement.failure}")
    reasons = [reason for result, reason in judged if not result.passed]
    return Verdict(passed=not reasons, results=results, reason="; ".join(reasons) or None)


_Judged = tuple[GateResult, str]


def _bounds(gate: Gate, measurement: Measurement, *, baselines: Mapping[str, Baseline | None]) -> list[_Judged]:
    value = measurement.metrics.get(gate.metric)
    why = measurement.unmeasured.get(gate.metric, measurement.failure or "it was not measured")
    missing = f"{gate.metric} has no value: {why}"
    judged: list[_Judged] = []
    if gate.min is not None:
        reason = missing if value is None else f"{gate.metric} {_number(value)} is below the minimum {gate.min:g}"
        passed = value is not None and value >= gate.min
        judged.append((GateResult(metric=gate.metric, value=value, passed=passed, limit=gate.min, bound="min"), reason))
    if gate.max is not None:
        reason = missing if value is None else f"{gate.metric} {_number(value)} is above the maximum {gate.max:g}"
        passed = value is not None and value <= gate.max
        judged.append((GateResult(metric=gate.metric, value=value, passed=passed, limit=gate.max, bound="max"), reason))
    if gate.no_worse_than is not None:
        judged.append(_compared(gate, gate.no_worse_than, value, baselines[gate.no_worse_than], missing=missing))
    return judged


def _compared(gate: Gate, channel: str, value: float | None, baseline: Baseline | None, *, missing: str) -> _Judged:
    bound = f"noWorseThan:{channel}"
    old = baseline.measurement.metrics.get(gate.metric) if baseline else None
    if value is None or (baseline is not None and old is None):
        reason = missing if value is None or baseline is None else _no_old_value(gate.metric, channel, baseline)
        return GateResult(metric=gate.metric, value=value, passed=False, bound=bound, baseline=old), reason
    if baseline is None or old is None:
        return GateResult(metric=gate.metric, value=value, passed=True, bound=bound), ""
    lower = gate.metric in LOWER_IS_BETTER
    limit = old + gate.tolerance if lower else old - gate.tolerance
    passed = value <= limit if lower else value >= limit
    tolerated = f" by more than {gate.tolerance:g}" if gate.tolerance else ""
    reason = (
        f"{gate.metric} {_number(value)} is worse than {_number(old)} of version {baseline.version} "
        f"({baseline.variant}) in channel {channel!r}{tolerated}"
    )
    return GateResult(metric=gate.metric, value=value, passed=passed, limit=limit, bound=bound, baseline=old), reason


def _no_old_value(metric: str, channel: str, baseline: Baseline) -> str:
    old = baseline.measurement
    why = old.failure or old.unmeasured.get(metric, "it was not measured")
    whose = f"{metric} of version {baseline.version} ({baseline.variant}) in channel {channel!r}"
    return f"{whose} has no value to compare with: {why}; promote a version that can be evaluated, or remove the gate"


def _number(value: float) -> str:
    return f"{value:.6g}"
