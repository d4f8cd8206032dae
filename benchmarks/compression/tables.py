"""What is printed: a table of the sides of each workload, and the promised figures beside their limits."""

import statistics
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.compression.figures import LIMITS, Figure, baseline, speedup
from benchmarks.compression.rounds import Results
from benchmarks.compression.workloads import BATCHES

WALL_OVER_CPU = 1.1
"""Above this, other programs took the core meanwhile."""


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
