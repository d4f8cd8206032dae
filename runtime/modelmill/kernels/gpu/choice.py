"""Which way takes a weight, and why not those before it."""

from collections.abc import Callable
from typing import NamedTuple

from modelmill.kernels.gpu.int4 import Int4
from modelmill.kernels.gpu.integer import Int8, TwoOfFour
from modelmill.kernels.gpu.way import Capability, Way
from modelmill.kernels.gpu.whole import Whole

WAYS: tuple[type[Way], ...] = (Int4, TwoOfFour, Int8)
"""The first has the fewest bytes: of a weight by which few rows are multiplied, they are the time."""


class Choice(NamedTuple):
    way: type[Way] | None
    """None: no way takes it."""
    reasons: tuple[str, ...]
    """Why not the ways before."""


def choose(weight: Whole, capability: Capability, objection: Callable[[type[Way]], str | None]) -> Choice:
    """The first way that takes the weight and to which there is no objection (`proof.objection`)."""
    reasons: list[str] = []
    for way in WAYS:
        reason = way.refusal(weight, capability) or objection(way)
        if reason is None:
            return Choice(way, tuple(reasons))
        reasons.append(f"{way.name}: {reason}")
    return Choice(None, tuple(reasons))
