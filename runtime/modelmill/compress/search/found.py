"""What a search has found: candidates with what was predicted for them, and measured for some; and the one to take. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modelmill.compress import timing
from modelmill.compress.errors import CompressionError
from modelmill.compress.search.knapsack import Point
from modelmill.contract.steps import Search


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    loss: float
    drop: float
    accuracy: float | None = None
    """Classes alone."""
    agreement: float | None = None
    """Classes alone: part of the rows with the dense model's class. Accuracies differ by at most 1 - agreement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    bytes: int
    """Of the file."""
    seconds: float
    """Of one row, one thread."""
    quality: Quality


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    point: Point
    bytes: int
    """Predicted, as `seconds` is: those of the start without what the layers save."""
    seconds: float
    measured: Measured | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    step: Search
    rows: int
    """That candidates were measured on."""
    dense: Measured
    """The trained model."""
    start: Measured
    """What the search began with: other than dense where steps came before."""
    candidates: Sequence[Candidate]
    """From the least predicted increase of the loss to the most."""

    def evaluated(self) -> dict[int, Measured]:
        """By place among the candidates."""
        return {place: one.measured for place, one in enumerate(self.candidates) if one.measured}


def chosen(found: Found) -> int:
    """Place of the best candidate within the budget. Raises CompressionError, with the best numbers, when there is none."""
    step, evaluated = found.step, found.evaluated()
    good = {place: one for place, one in evaluated.items() if one.quality.drop <= step.max_drop}
    if not good:
        nearest = min(evaluated.values(), key=lambda one: one.quality.drop)
        raise CompressionError(
            f"search.maxDrop: none of {len(evaluated)} candidates loses at most {step.max_drop:g} on {found.rows} rows; the "
            f"nearest loses {nearest.quality.drop:.4f} with {ratios(nearest, found.dense)}; raise maxDrop or evaluations"
        )
    least = min(objective(one, step) for one in good.values())
    noise = timing.NOISE if step.objective == "Latency" else 0.0
    # The first of those that are as good: accuracy is not paid for noise.
    place = min(place for place, one in good.items() if objective(one, step) <= least * (1 + noise))
    if objective(good[place], step) >= objective(found.start, step):
        raise CompressionError(
            f"search: nothing within maxDrop {step.max_drop:g} is better than without the search: the best of {len(evaluated)} "
            f"candidates has {ratios(good[place], found.start)}; raise maxDrop, or use another objective than {step.objective}"
        )
    return place


def objective(one: Measured, step: Search) -> float:
    return one.seconds if step.objective == "Latency" else one.bytes


def ratios(one: Measured, dense: Measured) -> str:
    return f"{one.seconds / max(1e-9, dense.seconds):.2f} of dense's time and {one.bytes / dense.bytes:.2f} of its bytes"


def kinds_told(choice: Mapping[str, str]) -> str:
    """How many layers have each kind, the most first."""
    return ", ".join(f"{count} {kind}" for kind, count in Counter(choice.values()).most_common())
