"""Paths to handlers: `/v2/models/{model}/infer` matches one segment a brace.

Unknown paths are 404 and known paths with another method 405 naming the right ones, each with a sentence.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from modelmill.serve.errors import MethodNotAllowed, NotFound
from modelmill.serve.http import Pending, Request, Response
from modelmill.serve.inference import Ask

if TYPE_CHECKING:
    from modelmill.serve.frontdoor import FrontDoor

OPENAI = "openai"
"""A protocol with a form of its own for errors."""


class Work(Protocol):
    """A request that is not for the batch former, and takes time."""

    def begin(self, door: "FrontDoor", request: Request, *, protocol: str, began: float) -> Pending:
        """What begins counts itself, once, as the load and when it is answered."""


Endpoint = Callable[[Request, Mapping[str, str]], Response | Ask | Work]
"""Answers, or says what to ask the model; refuses by raising."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    method: str
    path: str
    endpoint: Endpoint
    protocol: str = "other"
    """For metrics: v1, v2 and OpenAI's are requests for the model."""


class Router:
    def __init__(self, routes: tuple[Route, ...]) -> None:
        self._patterns = tuple((_compile(route.path), route) for route in routes)
        # Bounded: clients choose the paths. Steady traffic uses few, so matching costs one dictionary look-up.
        self._match = lru_cache(maxsize=256)(self._search)

    def _search(self, path: str) -> tuple[tuple[Route, dict[str, str]], ...]:
        matches = ((route, pattern.fullmatch(path)) for pattern, route in self._patterns)
        return tuple((route, match.groupdict()) for route, match in matches if match)

    def find(self, request: Request) -> tuple[Route, Mapping[str, str]]:
        candidates = self._match(request.path)
        method = "GET" if request.method == "HEAD" else request.method
        for route, values in candidates:
            if route.method == method:
                return route, values
        if not candidates:
            raise NotFound(f"there is nothing at {request.path[:200]!r}")
        allowed = ", ".join(sorted({route.method for route, _ in candidates}))
        raise MethodNotAllowed(f"{request.method} is not possible at {request.path[:200]!r}: use {allowed}", allowed=allowed)


def _compile(path: str) -> re.Pattern[str]:
    pieces = re.split(r"\{(\w+)\}", path)
    return re.compile("".join(f"(?P<{piece}>[^/:]+)" if i % 2 else re.escape(piece) for i, piece in enumerate(pieces)))
