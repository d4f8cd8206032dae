"""From the rounds to the promised figures and tables. Speeds are ratios within a round, then the median of the rounds.

A speedup is against the better of eager and inductor in float32, at the largest batch of the workload. A peer counts
as `best peer` only when its accuracy is ours or better: a wrong answer can be given at any speed.
"""

import operator
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

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
WALL_OVER_CPU = 1.1
"""Above this, other programs took the core meanwhile."""


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
    drop = 100 * (own.scores[base] - own.scores[name])
    found = [
        _one(f"resnet56_{variant}_drop_points", drop, against=f"{base} {own.scores[base]:.4f}", unit="points"),
        speedup(own, f"resnet56_{variant}_speedup", name, base),
        _one(f"resnet56_{variant}_size_ratio", facts["dense_bytes"] / facts["file_bytes"], against="float32 state dict"),
    ]
    if "macs" in facts:
        found.append(_one(f"resnet56_{variant}_macs_ratio", facts["dense_macs"] / facts["macs"], against="dense"))
    if peer := best_peer(own, at_least=own.scores[name]):
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
    """The fastest library whose answers are as good."""
    good = [name for name in own.scores if not name.startswith(("ours", "fp32")) and own.scores[name] >= at_least]
    return min(good, key=lambda name: own.seconds(name, largest(own)), default=None)


def speedup(own: Results, name: str, ours: str, theirs: str, batch: int | None = None) -> Figure:
    batch = batch or largest(own)
    each = [b / a for a, b in zip(own.times[ours, batch].cpu, own.times[theirs, batch].cpu, strict=True)]
    against = f"{theirs}, batch {batch}, one thread"
    return Figure(name=name, value=statistics.median(each), low=min(each), high=max(each), against=against)


def _one(name: str, value: float, *, against: str, unit: str = "ratio") -> Figure:
    return Figure(name=name, value=value, low=value, high=value, against=against, unit=unit)


def show(found: Sequence[Figure], results: Mapping[str, Results] | None = None) -> None:
    console = Console(highlight=False, width=150)
    for own in (results or {}).values():
        console.print(table(own))
        for line in notes(own):
            console.print(line, markup=False)
    console.print(verdict(found))


def table(own: Results) -> Table:
    batches = BATCHES[own.workload]
    drawn = Table(
        title=f"{own.workload}: medians of {len(next(iter(own.times.values())).cpu)} rounds, one thread", title_justify="left"
    )
    drawn.add_column("side")
    measure = ("cosine", "worst") if own.workload == "minilm" else ("top-1 %", "drop")
    for text in (*measure, *(f"{what}, batch {batch}" for batch in batches for what in ("ms", "CPU ms", "speedup")), "compile s"):
        drawn.add_column(text, justify="right")
    for name in sorted(own.scores, key=lambda side: own.seconds(side, batches[-1])):
        drawn.add_row(name, *_scores(own, name), *_speeds(own, name), f"{own.compile_seconds[name]:.0f}")
    return drawn


def _scores(own: Results, name: str) -> tuple[str, str]:
    if own.workload == "minilm":
        return f"{own.scores[name]:.4f}", f"{own.least[name]:.4f}"
    return f"{100 * own.scores[name]:.2f}", f"{100 * (own.scores[baseline(own)] - own.scores[name]):+.2f}"


def _speeds(own: Results, name: str) -> list[str]:
    cells: list[str] = []
    for batch in BATCHES[own.workload]:
        ratio = speedup(own, "", name, baseline(own, batch), batch).value
        wall = statistics.median(own.times[name, batch].wall)
        cells += [f"{1e3 * wall:.2f}", f"{1e3 * own.seconds(name, batch):.2f}", f"{ratio:.2f}"]
    return cells


def notes(own: Results) -> list[str]:
    lines = [f"missing: {name}: {reason}" for name, reason in own.missing.items()]
    shares = [wall / cpu for times in own.times.values() for wall, cpu in zip(times.wall, times.cpu, strict=True)]
    if statistics.median(shares) > WALL_OVER_CPU:
        lines.append(
            f"NOT QUIET: calls took {statistics.median(shares):.2f} times their CPU time; measure again with nothing beside"
        )
    return lines


def verdict(found: Sequence[Figure]) -> Table:
    drawn = Table(title="promised", title_justify="left")
    for text in ("figure", "measured", "least", "most", "limit", "", "against"):
        drawn.add_column(text, justify="right" if text in ("measured", "least", "most", "limit") else "left")
    told = {figure.name: figure for figure in found}
    for name, (sign, limit) in LIMITS.items():
        if figure := told.get(name):
            state = "holds" if figure.holds else "MISSED"
            drawn.add_row(
                name, f"{figure.value:.3f}", f"{figure.low:.3f}", f"{figure.high:.3f}", f"{sign} {limit:g}", state, figure.against
            )
        else:
            drawn.add_row(name, "-", "-", "-", f"{sign} {limit:g}", "missing", "not measured in this run")
    return drawn
