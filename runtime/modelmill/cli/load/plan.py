"""What the command tells the process that sends, and what that tells each second: one JSON line each."""

import base64
import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from modelmill.cli.load.histogram import Histogram


class Protocol(StrEnum):
    v2 = "v2"
    v2_json = "v2-json"
    v1 = "v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    host: str
    port: int
    request: str
    """The whole HTTP request, head and body, in base64."""
    connections: int
    """In the closed loop all are busy; the open loop opens them at its start, and more when they do not suffice."""
    seconds: float
    timeout: float
    """Seconds after which an answer is given up."""
    rate: float | None = None
    """Requests a second of the open loop; None is the closed one."""
    tls: bool = False
    ca: str | None = None

    @property
    def message(self) -> bytes:
        return base64.b64decode(self.request)


def packed(request: bytes) -> str:
    return base64.b64encode(request).decode()


@dataclass(kw_only=True)
class Report:
    """What happened since the report before. Codes are HTTP's, and for requests without an answer `refused` (no
    connection), `broken` (it was lost) and `timeout`; texts are what was said with each code first."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Of the process that sends."""
    codes: dict[str, int] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    latencies: Histogram = field(default_factory=Histogram)
    """Of successes."""
    late: Histogram = field(default_factory=Histogram)
    """By how much the open loop woke up after a request was due."""
    final: bool = False

    def count(self, code: str, text: str = "") -> None:
        self.codes[code] = self.codes.get(code, 0) + 1
        if text:
            self.texts.setdefault(code, text)

    def encode(self) -> str:
        return json.dumps(vars(self), default=Histogram.to_dict)

    @classmethod
    def decode(cls, line: str) -> "Report":
        told: dict[str, Any] = json.loads(line)
        for name in ("latencies", "late"):
            told[name] = Histogram.from_dict(told[name])
        return cls(**told)
