"""The outcome of an evaluation for people (a table in the log) and for machines (evaluation.json)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modelmill.contract import codec
from modelmill.contract.result import VariantResult
from modelmill.evaluate.gates import Baseline
from modelmill.evaluate.task import Measured

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """One variant: its figures, the versions it was compared with by channel, and the verdict."""

    result: VariantResult
    measured: Measured | None
    baselines: dict[str, Baseline | None]


def account(evaluated: Sequence[Evaluated], *, test_digest: str | None) -> dict[str, Any]:
    """Everything, for evaluation.json; `variants` are `contract.result.VariantResult` with more beside."""
    return {
        "format": FORMAT,
        "testDigest": test_digest,
        "rows": max((each.measured.rows for each in evaluated if each.measured), default=0),
        "variants": [_variant(each) for each in evaluated],
    }


def _variant(each: Evaluated) -> dict[str, Any]:
    found = codec.to_dict(each.result)
    if each.measured:
        found["latency"] = codec.to_dict(each.measured.latency)
        found["unmeasured"] = each.measured.unmeasured
    found["baselines"] = {channel: _baseline(baseline) for channel, baseline in each.baselines.items()}
    return found


def _baseline(baseline: Baseline | None) -> dict[str, Any] | None:
    if baseline is None:
        return None
    measurement = baseline.measurement
    return {
        "version": baseline.version,
        "variant": baseline.variant,
        "metrics": dict(measurement.metrics),
        "failure": measurement.failure,
    }


def table(evaluated: Sequence[Evaluated], *, metrics: Sequence[str]) -> list[str]:
    """Lines with aligned columns: a row for each variant."""
    rows = [("variant", "bytes", *metrics, "latency ms (10-90%)", "verdict")]
    rows += [_row(each, metrics=metrics) for each in evaluated]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(each: Evaluated, *, metrics: Sequence[str]) -> tuple[str, ...]:
    result, measured = each.result, each.measured
    values = (f"{result.metrics[name]:.4f}" if name in result.metrics else "-" for name in metrics)
    latency = "-"
    if measured:
        latency = f"{measured.latency.median:.3f} ({measured.latency.low:.3f}-{measured.latency.high:.3f})"
    return (result.name, str(result.bytes), *values, latency, "passed" if result.passed else f"refused: {result.reason}")
