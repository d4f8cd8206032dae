"""How a request wants to be treated in the queue: the protocol's request parameters, under Triton's names.

`priority` (0 = the default, 1 = first) and `timeout` (microseconds from arrival until the answer is worth nothing), as
in Triton's schedule policy extension. Parameters that are not known here are left to the protocols.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelmill.serve.errors import BadRequest

DEFAULT_PRIORITY = 5
LAST_PRIORITY = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    priority: int = DEFAULT_PRIORITY
    """1 goes first, 9 last; equals go in the order of arrival."""
    timeout_seconds: float | None = None
    """None: the service's own limit."""


DEFAULT = Options()


def options_of(parameters: Mapping[str, Any]) -> Options:
    if "priority" not in parameters and "timeout" not in parameters:
        return DEFAULT
    priority, timeout = parameters.get("priority", 0), parameters.get("timeout", 0)
    if type(priority) is not int or not 0 <= priority <= LAST_PRIORITY:
        raise BadRequest(
            f"the parameter priority: {priority!r} must be 1 (first) to {LAST_PRIORITY} (last), or 0 for the default"
        )
    if type(timeout) is not int or timeout < 0:
        raise BadRequest(f"the parameter timeout: {timeout!r} must be a whole number of microseconds, or 0 for none")
    return Options(priority=priority or DEFAULT_PRIORITY, timeout_seconds=timeout / 1e6 if timeout else None)
