"""gRPC's statuses: which refusal has which, and how they travel, in the headers that end a call."""

import enum
import logging
from dataclasses import dataclass
from urllib.parse import quote

from modelmill.serve import errors
from modelmill.serve.http import CLIENT_GONE
from modelmill.serve.http2.hpack import Field, encode

log = logging.getLogger(__name__)
MAX_DETAILS = 1000
"""Characters: clients refuse large headers (8 KiB)."""
_PLAIN = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


class Unimplemented(errors.Refusal):
    """A method or an encoding that this server does not have."""

    status = 501


class TooLarge(errors.Refusal):
    status = 413


class Status(enum.IntEnum):
    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


OF_REFUSALS: dict[type[errors.Refusal], Status] = {
    errors.BadRequest: Status.INVALID_ARGUMENT,
    errors.Unauthorized: Status.UNAUTHENTICATED,
    errors.NotFound: Status.NOT_FOUND,
    Unimplemented: Status.UNIMPLEMENTED,
    TooLarge: Status.RESOURCE_EXHAUSTED,
    errors.NotReady: Status.UNAVAILABLE,
    errors.Overloaded: Status.RESOURCE_EXHAUSTED,
    errors.Expired: Status.DEADLINE_EXCEEDED,
    errors.ModelFailed: Status.INTERNAL,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A request's end without an answer."""

    status: Status
    details: str
    http_status: int
    """What the same would be over HTTP: for the access log."""
    more: tuple[Field, ...] = ()

    def fields(self) -> list[Field]:
        message = quote(self.details[:MAX_DETAILS], safe=_PLAIN)
        return [("grpc-status", str(int(self.status))), ("grpc-message", message), *self.more]


CANCELLED = Refused(status=Status.CANCELLED, details="the client went away", http_status=CLIENT_GONE)
TOO_LATE = Refused(status=Status.DEADLINE_EXCEEDED, details="the deadline has passed", http_status=504)
LEAVING = Refused(status=Status.UNAVAILABLE, details="the server is going away: open a new stream", http_status=503)

HEADERS: list[Field] = [(":status", "200"), ("content-type", "application/grpc")]
HEAD = encode(HEADERS)
"""Of every answer."""
DONE = encode([("grpc-status", "0")])


def refused(error: Exception) -> Refused:
    if not isinstance(error, errors.Refusal):
        log.error("a gRPC method failed", exc_info=error)
        text = f"internal error: {type(error).__name__}; the server's log has the details"
        return Refused(status=Status.INTERNAL, details=text, http_status=500)
    more: tuple[Field, ...] = ()
    if error.retry_after is not None:
        more = (("retry-after", str(error.retry_after)),)
    if isinstance(error, Unimplemented):
        more = (("grpc-accept-encoding", "identity, deflate, gzip"),)
    status = OF_REFUSALS.get(type(error), Status.UNKNOWN)
    return Refused(status=status, details=str(error), http_status=error.status, more=more)
