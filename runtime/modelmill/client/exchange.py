"""One request and what came of it, in words that no HTTP library has a part in."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import TypeVar

import orjson

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A request that the client shall send, `after` a pause; both times are in seconds."""

    method: str
    path: str
    timeout: float = 0.0
    after: float = 0.0
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


class Loss(Enum):
    """Why there is no reply."""

    NEVER_SENT = "never sent"
    UNTRUSTED = "untrusted"
    TIMED_OUT = "timed out"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True, kw_only=True)
class NoReply:
    loss: Loss
    text: str


Flow = Generator[Exchange, Reply | NoReply, T]


def retry_after(reply: Reply) -> float | None:
    """Seconds; the header holds them, or a date (RFC 9110, 10.2.3)."""
    text = reply.headers.get("retry-after", "")
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def message(reply: Reply) -> str:
    try:
        told = orjson.loads(reply.body)
        return str(told["error"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return reply.body[:200].decode(errors="replace") or "the answer has no text"
