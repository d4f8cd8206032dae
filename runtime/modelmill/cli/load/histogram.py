"""Latencies in buckets that grow by 1 %, so that a run of any length takes little memory and every percentile is within
0.5 %; the idea is HdrHistogram's (Gil Tene). Minimum and maximum are exact. Times are in seconds."""

import math
from collections.abc import Mapping

SMALLEST_SECONDS = 1e-6
LARGEST_SECONDS = 1e4
_GROWTH = math.log(1.01)
_BUCKETS = int(math.log(LARGEST_SECONDS / SMALLEST_SECONDS) / _GROWTH) + 1
_BARS = "▁▂▃▄▅▆▇█"


class Histogram:
    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self.count = 0
        self.total = 0.0
        self.least = math.inf
        self.most = 0.0

    def record(self, seconds: float) -> None:
        bucket = int(math.log(seconds / SMALLEST_SECONDS) / _GROWTH) if seconds > SMALLEST_SECONDS else 0
        self._counts[bucket if bucket < _BUCKETS else -1] += 1
        self.count += 1
        self.total += seconds
        if seconds > self.most:
            self.most = seconds
        if seconds < self.least:
            self.least = seconds

    def add(self, other: "Histogram") -> None:
        self._counts = [mine + theirs for mine, theirs in zip(self._counts, other._counts, strict=True)]
        self.count += other.count
        self.total += other.total
        self.least, self.most = min(self.least, other.least), max(self.most, other.most)

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count else None

    def percentile(self, share: float) -> float | None:
        """The least latency that this share of all does not exceed; None without any."""
        if share >= 1.0 and self.count:
            return self.most
        wanted, seen = math.ceil(share * self.count), 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if count and seen >= wanted:
                middle = SMALLEST_SECONDS * math.exp(_GROWTH * (bucket + 0.5))
                return min(max(middle, self.least), self.most)
        return None

    def sparkline(self, width: int) -> str:
        """Counts from the least latency to the most, on a logarithmic axis; a column with anything in it shows."""
        used = [bucket for bucket, count in enumerate(self._counts) if count]
        if not used:
            return ""
        first, span = used[0], used[-1] - used[0] + 1
        columns = [0] * min(width, span)
        for bucket in used:
            columns[(bucket - first) * len(columns) // span] += self._counts[bucket]
        tallest = max(columns)
        return "".join(_BARS[math.ceil(count / tallest * len(_BARS)) - 1] if count else " " for count in columns)

    def to_dict(self) -> dict[str, object]:
        counts = {str(bucket): count for bucket, count in enumerate(self._counts) if count}
        return {"counts": counts, "total": self.total, "least": self.least if self.count else None, "most": self.most}

    @classmethod
    def from_dict(cls, told: Mapping[str, object]) -> "Histogram":
        found = cls()
        counts, least, total, most = told["counts"], told["least"], told["total"], told["most"]
        assert isinstance(counts, dict) and isinstance(total, float) and isinstance(most, float)
        for bucket, count in counts.items():
            found._counts[int(bucket)] = count
        found.count = sum(found._counts)
        found.total, found.most = total, most
        found.least = least if isinstance(least, float) else math.inf
        return found
