"""What a run has shown: totals over its reports, and the last seconds one by one. Pure."""

from dataclasses import dataclass, field
from typing import Any

from modelmill.cli.load.histogram import Histogram
from modelmill.cli.load.plan import Report

SHOWN_SECONDS = 10
BUSY_SHARE = 0.9
"""Of one core: above it, the process that sends is what limits the figures."""


@dataclass(kw_only=True)
class Figures:
    """Of one second, or of the whole run."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    codes: dict[str, int] = field(default_factory=dict)
    latencies: Histogram = field(default_factory=Histogram)
    """Of successes, in seconds."""
    late: Histogram = field(default_factory=Histogram)

    def add(self, report: Report) -> None:
        self.seconds += report.seconds
        self.cpu_seconds += report.cpu_seconds
        for code, count in report.codes.items():
            self.codes[code] = self.codes.get(code, 0) + count
        self.latencies.add(report.latencies)
        self.late.add(report.late)

    @property
    def ok(self) -> int:
        return self.latencies.count

    @property
    def failed(self) -> int:
        return sum(self.codes.values()) - self.ok

    @property
    def failures(self) -> dict[str, int]:
        return {code: count for code, count in sorted(self.codes.items()) if not code.startswith("2")}

    @property
    def rps(self) -> float:
        return self.ok / self.seconds if self.seconds else 0.0

    @property
    def cpu_share(self) -> float:
        return self.cpu_seconds / self.seconds if self.seconds else 0.0

    @property
    def limited_by_sender(self) -> bool:
        return self.cpu_share > BUSY_SHARE

    def millis(self, share: float) -> float | None:
        found = self.latencies.percentile(share)
        return None if found is None else found * 1000


class Summary:
    def __init__(self, *, rows: int) -> None:
        self.rows = rows
        """In each request."""
        self.total = Figures()
        self.recent: list[tuple[float, Figures]] = []
        """The last seconds, each with the time of the run at which it ended."""
        self.texts: dict[str, str] = {}
        """What was said with each code first."""

    def add(self, report: Report) -> None:
        self.total.add(report)
        second = Figures()
        second.add(report)
        self.recent = [*self.recent, (self.total.seconds, second)][-SHOWN_SECONDS:]
        self.texts = {**report.texts, **self.texts}

    def to_dict(self) -> dict[str, Any]:
        """For programs: camelCase, times in milliseconds unless they say otherwise."""
        total = self.total
        latencies = {name: total.millis(share) for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999))}
        mean, late = total.latencies.mean, total.late.percentile(0.99)
        return {
            "seconds": total.seconds,
            "ok": total.ok,
            "failed": total.failed,
            "codes": total.codes,
            "errors": self.texts,
            "rps": total.rps,
            "rowsPerSecond": total.rps * self.rows,
            "latencyMillis": {
                **latencies,
                "max": total.latencies.most * 1000 if total.ok else None,
                "mean": None if mean is None else mean * 1000,
            },
            "senderCpuShare": total.cpu_share,
            "limitedBySender": total.limited_by_sender,
            "sentLateP99Millis": None if late is None else late * 1000,
        }
