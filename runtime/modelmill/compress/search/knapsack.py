"""One kind for each layer, so that costs are small for the increase of the loss that they cause. Pure.

    minimise sum_l cost[l, k_l] while sum_l increase[l, k_l] <= bound        (multiple-choice knapsack)

The Lagrangian way: of each layer only the options on the lower convex hull of (increase, cost) count, and steps along all
hulls are taken in the order of what they save for a unit of increase. Each combination on that way is optimal for the
increase that it has. For a bound between two of them the best one below it costs at most one step's saving more than the
optimum. Sinha and Zoltners 1979, "The Multiple-Choice Knapsack Problem"; Shoham and Gersho 1988, "Efficient Bit Allocation
for an Arbitrary Set of Quantizers".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    kind: str
    cost: float
    increase: float
    """Of the loss, >= 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    choice: Mapping[str, str]
    """Layer -> kind."""
    cost: float
    increase: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    layer: str
    to: Option
    saving: float
    increase: float


def front(options: Mapping[str, Sequence[Option]]) -> list[Point]:
    """From the least increase to the least cost; costs fall strictly and increases rise strictly. Each layer has an option."""
    hulls = {layer: hull(own) for layer, own in options.items()}
    choice = {layer: own[0] for layer, own in hulls.items()}
    points = [_point(choice)]
    steps = [
        _Step(layer=layer, to=to, saving=start.cost - to.cost, increase=to.increase - start.increase)
        for layer, own in hulls.items()
        for start, to in pairwise(own)
    ]
    # Stable: steps of one layer stay in order where they save the same for a unit.
    for step in sorted(steps, key=lambda step: -step.saving / step.increase):
        choice[step.layer] = step.to
        points.append(_point(choice))
    return _falling(points)


def hull(options: Sequence[Option]) -> list[Option]:
    """The lower convex hull, from the least increase on: each step saves less for a unit of increase than the one before."""
    found: list[Option] = []
    for option in sorted(options, key=lambda option: (option.increase, option.cost)):
        if found and option.cost >= found[-1].cost:
            continue
        while len(found) > 1 and _rate(found[-2], found[-1]) <= _rate(found[-2], option):
            found.pop()
        found.append(option)
    return found


def _rate(start: Option, to: Option) -> float:
    return (start.cost - to.cost) / (to.increase - start.increase)


def _point(choice: Mapping[str, Option]) -> Point:
    # Summed anew: differences would add up rounding.
    return Point(
        choice={layer: option.kind for layer, option in choice.items()},
        cost=sum(option.cost for option in choice.values()),
        increase=sum(option.increase for option in choice.values()),
    )


def _falling(points: Sequence[Point]) -> list[Point]:
    """Without those where a step was lost in rounding."""
    kept = list(points[:1])
    for point in points[1:]:
        if point.cost < kept[-1].cost and point.increase > kept[-1].increase:
            kept.append(point)
    return kept
