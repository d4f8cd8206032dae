"""JSON log lines on standard error, one object a line, and the sampled access log.

Each failed request is worth a line, but ten thousand a second are not: both kinds have a budget, and what was left
out is said in the next line (`skipped`).
"""

import logging
import sys
from typing import Any

import orjson

SUCCESSES_PER_SECOND = 1
FAILURES_PER_SECOND = 10
access = logging.getLogger("modelmill.access")


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def configure(level: int = logging.INFO) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)


class _Budget:
    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._second = -1
        self._spent = 0
        self.skipped = 0

    def spend(self, now: float, requests: int) -> bool:
        if int(now) != self._second:
            self._second, self._spent = int(now), 0
        due = self._spent < self._per_second
        self._spent += requests
        self.skipped += requests - due
        return due


class AccessLog:
    def __init__(self) -> None:
        self._successes = _Budget(SUCCESSES_PER_SECOND)
        self._failures = _Budget(FAILURES_PER_SECOND)

    def due(self, status: int, now: float, requests: int = 1) -> bool:
        """Whether there is a line left in this second for one of such requests: ask for all, and write one when told so."""
        return (self._successes if status < 400 else self._failures).spend(now, requests)

    def write(self, method: str, path: str, status: int, *, seconds: float, received: int, sent: int) -> None:
        budget = self._successes if status < 400 else self._failures
        fields = {
            "method": method,
            "path": path[:200],
            "status": status,
            "millis": round(seconds * 1000, 3),
            "receivedBytes": received,
            "sentBytes": sent,
            "skipped": budget.skipped,
        }
        budget.skipped = 0
        access.info("request", extra={"fields": fields})
