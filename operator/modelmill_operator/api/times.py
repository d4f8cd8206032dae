"""Durations as users write them ("60s", "5m", "1h30m", "5ms") and timestamps as Kubernetes writes them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

DURATION_PATTERN = r"^([0-9]+(h|ms|m|s))+$"
_PART = re.compile(r"([0-9]+)(h|ms|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def seconds(duration: str) -> float:
    """The length of a duration such as "1h30m" in seconds."""
    if not re.match(DURATION_PATTERN, duration):
        raise ValueError(f"duration {duration!r} is not understood: write numbers with units h, m, s or ms, such as 1h30m or 5ms")
    return round(sum(int(number) * _SECONDS[unit] for number, unit in _PART.findall(duration)), 3)


def timestamp(moment: datetime) -> str:
    """A moment in the form that Kubernetes uses: RFC 3339, UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(text: str) -> datetime:
    return datetime.fromisoformat(text)
