"""Which candidates of the front are evaluated. Pure.

The drop grows along the front, but for noise: each evaluation halves the part in which it may pass the bound.
"""

from collections.abc import Callable


def bisect(candidates: int, *, evaluations: int, holds: Callable[[int], bool]) -> list[int]:
    """Asks `holds` of at most so many of the places 0 to `candidates` - 1, and returns these in order.

    Where the answers are yes up to some place and no from there on, the last yes is among them if 2 ** evaluations >
    candidates."""
    last, first_missed = -1, candidates
    asked: list[int] = []
    while len(asked) < evaluations and first_missed - last > 1:
        place = (last + first_missed) // 2
        asked.append(place)
        if holds(place):
            last = place
        else:
            first_missed = place
    return sorted(asked)
