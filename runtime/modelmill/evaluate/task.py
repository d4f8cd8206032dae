"""What is to be measured and what came out: passed between processes, so without torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelmill.contract.steps import Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    weights: str
    """Path of the weights file."""
    data: str
    """URI of the held-out data."""
    metrics: tuple[str, ...]
    entrypoint: str
    recipe: str | None = None
    """Path of the recipe's folder; None means that the entrypoint is installed."""
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    """What made the variant."""
    program: str | None = None
    """Path of an exported program to measure instead of the recipe's model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Milliseconds."""

    median: float
    low: float
    """Tenth percentile."""
    high: float
    """Ninetieth percentile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    metrics: dict[str, float]
    rows: int
    latency: Latency
    unmeasured: dict[str, str] = field(default_factory=dict)
    """Metric -> why it has no value."""
