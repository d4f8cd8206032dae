"""Requests and responses as handlers see them, and how an answer that takes time is given.

A handler returns a `Response`, or a `Pending` that gives one later: a callback, not a coroutine, because a task and a
future for each request cost more than a small model's whole answer. A body whose end is not known yet is a `Flow`: each
piece goes to the client as it comes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import unquote

import orjson

JSON = "application/json"
CLIENT_GONE = 499
"""Not a status that anybody receives: for counting."""
Bytes = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    max_body_bytes: int = 16 << 20
    max_head_bytes: int = 32 << 10
    grace_seconds: float = 20.0
    """A request may take this long to arrive, plus its bytes at `least_bytes_per_second`."""
    least_bytes_per_second: int = 32 << 10
    idle_seconds: float = 120.0
    """Longer than what proxies and load balancers keep, so that they close idle connections, not we."""
    unread_seconds: float = 60.0
    """How long an answer may wait for a client that does not read it."""
    sweep_seconds: float = 1.0
    """How often all connections are checked for the above."""


@dataclass(slots=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: Bytes


class Sink(Protocol):
    """Where the pieces of a body go."""

    def piece(self, data: bytes) -> None: ...

    def finish(self, *, whole: bool) -> None:
        """Nothing more comes; a body that is not whole must not look as if it were."""


class Flow(Protocol):
    """A body in pieces; none comes before `into`, after `cancel`, or while it is paused, but for those under way."""

    def into(self, sink: Sink) -> None: ...

    def pause(self) -> None:
        """The client does not keep up."""

    def resume(self) -> None: ...

    def cancel(self) -> None:
        """The client has gone: nobody reads the rest."""


@dataclass(slots=True, kw_only=True)
class Response:
    status: int = 200
    body: Sequence[bytes | memoryview] = ()
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
    flow: Flow | None = None
    """Instead of `body`."""

    @property
    def length(self) -> int:
        """Bytes of the body."""
        if len(self.body) == 1 and isinstance(self.body[0], bytes):
            return len(self.body[0])
        return sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in self.body)


class Pending(Protocol):
    """An answer under way; `send` is called once, never before `then` has returned, unless it is cancelled first."""

    def then(self, send: Callable[[Response], None]) -> None: ...

    def cancel(self) -> None: ...


Handler = Callable[[Request], Response | Pending]


def path_of(target: str) -> str:
    """The path of a request's target (RFC 9110, section 7.1) without its query, decoded."""
    path = target.partition("?")[0]
    return unquote(path) if "%" in path else path


def json_response(content: Any, *, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    return Response(status=status, body=(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY),), headers=headers)


def error_response(status: int, message: str, *, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    return json_response({"error": message}, status=status, headers=headers)
