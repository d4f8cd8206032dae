"""From the rounds to the promised figures. Speeds are ratios within a round, then the median of the rounds.

A speedup is against the better of eager and inductor in float32, at the largest batch of the workload. A peer counts
as `best peer` when it loses no more than our int8 variant may: a wrong answer can be given at any speed.
"""

import operator
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.compression.rounds import BASELINES, Results
from benchmarks.compression.workloads import BATCHES

LIMITS: dict[str, tuple[str, float]] = {
    "resnet56_int8_drop_points": ("<=", 0.3),
    "resnet56_int8_speedup_vs_best_peer": (">=", 0.95),
    "resnet56_structured_macs_ratio": (">=", 2.1),
    "resnet56_structured_drop_points": ("<=", 1.0),
    "resnet56_structured_speedup": (">=", 1.7),
    "resnet56_best_size_ratio": (">=", 8.0),
    "resnet56_best_speedup": (">=", 3.0),
    "resnet56_best_drop_points": ("<=", 1.0),
    "minilm_int8_cosine": (">=", 0.99),
    "minilm_int8_speedup": (">=", 2.5),
    "minilm_int4_cosine": (">=", 0.97),
    "minilm_int4_bytes_ratio": ("<=", 0.16),
    "load_vs_read": ("<=", 1.3),
    "load_vs_read_cold": ("<=", 1.3),
    "load_peak_memory_ratio": ("<=", 1.15),
}
HOLDS: Mapping[str, Callable[[float, float], bool]] = {">=": operator.ge, "<=": operator.le}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    name: str
    value: float
    low: float
    high: float
    against: str
    unit: str = "ratio"

    @property
    def holds(self) -> bool:
        sign, limit = LIMITS[self.name]
        return HOLDS[sign](self.value, limit)

    def entry(self) -> dict[str, Any]:
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(self).items()}


def figures(results: Mapping[str, Results]) -> list[Figure]:
    """What these runs allow to tell; nothing of a variant that is missing."""
    found: list[Figure] = []
    if own := results.get("resnet56"):
        for variant in ("int8", "structured", "best"):
            if f"ours {variant}" in own.scores:
                found += _network(own, variant)
    if own := results.get("minilm"):
        for variant in ("int8", "int4"):
            if f"ours {variant}" in own.scores:
                found += _encoder(own, variant)
    return [figure for figure in found if figure.name in LIMITS]


def _network(own: Results, variant: str) -> list[Figure]:
    name, facts = f"ours {variant}", own.facts[f"ours {variant}"]
    base = baseline(own)
    drop = round(100 * (own.scores[base] - own.scores[name]), 6)  # of 10,000 images: what binary fractions add is not meant
    found = [
        _one(f"resnet56_{variant}_drop_points", drop, against=f"{base} {own.scores[base]:.4f}", unit="points"),
        speedup(own, f"resnet56_{variant}_speedup", name, base),
        _one(f"resnet56_{variant}_size_ratio", facts["dense_bytes"] / facts["file_bytes"], against="float32 state dict"),
        _one(f"resnet56_{variant}_macs_ratio", facts["dense_macs"] / facts["macs"], against="dense"),
    ]
    if peer := best_peer(own, at_least=own.scores[base] - LIMITS["resnet56_int8_drop_points"][1] / 100):
        found.append(speedup(own, f"resnet56_{variant}_speedup_vs_best_peer", name, peer))
    return found


def _encoder(own: Results, variant: str) -> list[Figure]:
    name, facts = f"ours {variant}", own.facts[f"ours {variant}"]
    against = f"float32 embeddings; worst sentence {own.least[name]:.4f}"
    share = facts["linear_bytes"] / facts["dense_linear_bytes"]
    return [
        _one(f"minilm_{variant}_cosine", own.scores[name], against=against, unit="cosine"),
        speedup(own, f"minilm_{variant}_speedup", name, baseline(own)),
        _one(f"minilm_{variant}_bytes_ratio", share, against="float32 linear layers"),
    ]


def largest(own: Results) -> int:
    return BATCHES[own.workload][-1]


def baseline(own: Results, batch: int | None = None) -> str:
    """The better one in float32."""
    return min((name for name in BASELINES if name in own.scores), key=lambda name: own.seconds(name, batch or largest(own)))


def best_peer(own: Results, *, at_least: float) -> str | None:
    """The fastest library whose answers are good enough."""
    good = [name for name in own.scores if not name.startswith(("ours", "fp32")) and own.scores[name] >= at_least]
    return min(good, key=lambda name: own.seconds(name, largest(own)), default=None)


def speedup(own: Results, name: str, ours: str, theirs: str, batch: int | None = None) -> Figure:
    batch = batch or largest(own)
    each = [b / a for a, b in zip(own.times[ours, batch].cpu, own.times[theirs, batch].cpu, strict=True)]
    against = f"{theirs}, batch {batch}, one thread"
    return Figure(name=name, value=statistics.median(each), low=min(each), high=max(each), against=against)


def _one(name: str, value: float, *, against: str, unit: str = "ratio") -> Figure:
    return Figure(name=name, value=value, low=value, high=value, against=against, unit=unit)
