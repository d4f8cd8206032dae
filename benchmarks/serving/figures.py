"""From the rounds' measurements to the promised figures: each a median of the rounds' own ratios, with its extremes."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.serving.load import Load
from benchmarks.serving.ours import BF16_NAME, INT8_NAME, NAME
from benchmarks.serving.rounds import Results

LIMITS: dict[str, tuple[str, float]] = {
    "mlp_rps_vs_triton_c64": (">=", 3.0),
    "mlp_rps_vs_triton_c16": (">=", 4.0),
    "mlp_p99_vs_triton_c64": ("<=", 0.5),
    "mlp_p50_vs_best_c1": ("<=", 0.7),
    "cnn_vs_limit_c64": (">=", 0.92),
    "encoder_vs_limit_c64": (">=", 0.92),
    "cnn_vs_best_peer_c64": (">=", 1.3),
    "encoder_vs_best_peer_c64": (">=", 1.4),
    "encoder_bf16_vs_best_peer_c64": (">=", 1.9),
    "encoder_int8_vs_best_peer_c64": (">=", 2.2),
    "p99_over_p50_c64": ("<=", 2.0),
    "grpc_vs_json_c64": (">", 1.0),
    "big_tensor_vs_socket_sink": ("<=", 1.3),
    "rss_vs_triton": ("<=", 1.0),
    "first_answer_vs_script": ("<=", 1.2),
    "gpu_vs_graph_loop": (">=", 0.9),
}
HOLDS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": lambda value, limit: value >= limit,
    "<=": lambda value, limit: value <= limit,
    ">": lambda value, limit: value > limit,
}
QUIET_CORES = 0.15
"""What others may use beside a measurement that is to be believed."""


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
        return {name: round(value, 3) if isinstance(value, float) else value for name, value in asdict(self).items()}


def ratio(name: str, ours: Sequence[float], theirs: Sequence[float], *, against: str) -> Figure:
    """Round by round, so that a machine that was slow for a while was slow for both."""
    each = [a / b for a, b in zip(ours, theirs, strict=True)]
    return Figure(name=name, value=statistics.median(each), low=min(each), high=max(each), against=against)


def figures(results: Mapping[str, Results]) -> list[Figure]:
    """What these workloads and peers allow to tell."""
    found: list[Figure] = []
    if mlp := results.get("mlp"):
        for connections in (64, 16):
            found += _against(f"mlp_rps_vs_triton_c{connections}", mlp, _triton(mlp), connections, "rps")
        found += _against("mlp_p99_vs_triton_c64", mlp, _triton(mlp), 64, "p99")
        found += _against("mlp_p50_vs_best_c1", mlp, mlp.peers(), 1, "p50")
    for name in ("cnn", "encoder"):
        if own := results.get(name):
            rates = series(own, NAME, 64, "rps")
            found.append(ratio(f"{name}_vs_limit_c64", rates, own.limits, against=f"in process, batch {own.limit_batch}"))
            found += _against(f"{name}_vs_best_peer_c64", own, own.peers(), 64, "rps")
        for short, variant in (("int8", INT8_NAME), ("bf16", BF16_NAME)):
            if own and (variant, 64) in own.loads:
                found += _against(f"encoder_{short}_vs_best_peer_c64", own, own.peers(), 64, "rps", ours=variant)
    if results:
        found.append(_fairness(results))
    return found


def series(results: Results, server: str, connections: int, what: str) -> list[float]:
    return [getattr(load, what) for load in results.loads[server, connections]]


def _triton(results: Results) -> list[str]:
    return [name for name in results.peers() if name.startswith("triton")]


def _against(name: str, results: Results, peers: Sequence[str], connections: int, what: str, *, ours: str = NAME) -> list[Figure]:
    """Against the best of these at this very figure: its median decides."""
    if not peers:
        return []
    best = (max if what == "rps" else min)(peers, key=lambda peer: statistics.median(series(results, peer, connections, what)))
    own, theirs = (series(results, server, connections, what) for server in (ours, best))
    return [ratio(name, own, theirs, against=best)]


def _fairness(results: Mapping[str, Results]) -> Figure:
    each = [
        ratio("p99_over_p50_c64", series(own, NAME, 64, "p99"), series(own, NAME, 64, "p50"), against=f"worst: {name}")
        for name, own in results.items()
    ]
    return max(each, key=lambda figure: figure.value)


def table(workload: str, results: Results) -> list[str]:
    head = f"{'':30}{'c':>4}{'rps':>9}{'least':>9}{'most':>9}{'p50 ms':>9}{'p99 ms':>9}{'failed':>8}{'wrk busy':>10}{'others':>8}"
    lines = [f"{workload}: medians of {len(next(iter(results.loads.values())))} rounds", head]
    for (server, connections), loads in sorted(results.loads.items(), key=lambda item: (item[0][1], -_median(item[1], "rps"))):
        rates = [load.rps for load in loads]
        p50, p99, busy, others = (_median(loads, what) for what in ("p50", "p99", "busy", "others"))
        failed = sum(load.failed for load in loads)
        numbers = f"{_median(loads, 'rps'):9.0f}{min(rates):9.0f}{max(rates):9.0f}{p50:9.2f}{p99:9.2f}{failed:8}"
        numbers += f"{busy:10.2f}{others:8.2f}"
        lines.append(f"{server:30}{connections:4}{numbers}")
    if results.limits:
        name = f"in process, batch {results.limit_batch}"
        rates = results.limits
        lines.append(f"{name:34}{statistics.median(rates):9.0f}{min(rates):9.0f}{max(rates):9.0f}")
    others = statistics.median(load.others for loads in results.loads.values() for load in loads)
    if others > QUIET_CORES:
        lines.append(f"NOT QUIET: other programs used {others:.2f} cores meanwhile (median); measure again without them")
    return lines + [f"missing: {name}: {reason}" for name, reason in results.missing.items()]


def _median(loads: Sequence[Load], what: str) -> float:
    value: float = statistics.median(getattr(load, what) for load in loads)
    return value


def verdict(found: Sequence[Figure], *, why_not: Mapping[str, str]) -> list[str]:
    """`why_not`: reasons by the names of figures that were not measured."""
    lines = [f"{'':32}{'measured':>10}{'least':>9}{'most':>9}   limit"]
    told = {figure.name: figure for figure in found}
    for name, (sign, limit) in LIMITS.items():
        if figure := told.get(name):
            state = "holds" if figure.holds else "MISSED"
            numbers = f"{figure.value:10.3f}{figure.low:9.3f}{figure.high:9.3f}"
            lines.append(f"{name:32}{numbers}   {sign} {limit:<5g} {state:7} {figure.against}")
        else:
            lines.append(
                f"{name:32}{'-':>10}{'-':>9}{'-':>9}   {sign} {limit:<5g} {why_not.get(name, 'not measured in this run')}"
            )
    return lines
