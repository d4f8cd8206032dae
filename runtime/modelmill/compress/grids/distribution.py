"""The values of a weight as points on a line, each with a mass; and the few values that stand for them best.

The sum of mass * (point - nearest centre)^2 is to be least: k-means in one dimension, where a cluster is a run of points, so
that sums over it are differences of running sums. Lloyd 1982, "Least squares quantization in PCM"; exactly, by dynamic
programming: Wang and Song 2011, "Ckmeans.1d.dp: Optimal k-means Clustering in One Dimension by Dynamic Programming".
"""

from dataclasses import dataclass

import torch

MOST_POINTS = 1 << 16
"""More distinct values than that are counted in as many equal bins, each at the mean of what is in it."""
COARSE_POINTS = 512
"""That dynamic programming looks at; its time and memory grow with the square."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Distribution:
    points: torch.Tensor
    """float64 [P], ascending"""
    mass: torch.Tensor
    """float64 [P], above 0"""


def distribution(values: torch.Tensor, *, importance: torch.Tensor | None = None) -> Distribution:
    """Of values of any shape; each has mass 1, or its importance (of the same shape; all 0 counts as none)."""
    flat = values.flatten().double()
    each = torch.ones_like(flat) if importance is None or not bool(importance.any()) else importance.flatten().double()
    if len(flat) <= MOST_POINTS:
        points, index = flat.unique(return_inverse=True)
    else:
        points, index = _binned(flat)
    mass = torch.bincount(index, weights=each, minlength=len(points))
    if len(flat) > MOST_POINTS:
        points = torch.bincount(index, weights=each * flat, minlength=len(points)) / mass
    there = mass > 0
    return Distribution(points=points[there], mass=mass[there])


def _binned(flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    low, high = torch.aminmax(flat)
    wide = float(high - low) / MOST_POINTS or 1.0
    index = ((flat - low) / wide).long().clamp_(max=MOST_POINTS - 1)
    return flat.new_zeros(MOST_POINTS), index


def lloyd(given: Distribution, centres: torch.Tensor, *, zero_kept: bool, rounds: int = 100) -> torch.Tensor:
    """Centres float64 [k], ascending, moved to the mean of what is nearest to them until none moves.

    With `zero_kept` the one nearest to 0 becomes 0 and stays there. A centre that nothing is nearest to stays where it is.
    """
    mass, moment, centres = _running(given.mass), _running(given.mass * given.points), centres.clone()
    pinned = int(centres.abs().argmin()) if zero_kept else None
    for _ in range(rounds):
        if pinned is not None:
            centres[pinned] = 0.0
        ends = torch.searchsorted(given.points, (centres[1:] + centres[:-1]) / 2)
        ends = torch.cat([ends.new_zeros(1), ends, ends.new_full((1,), len(given.points))])
        inside = mass[ends[1:]] - mass[ends[:-1]]
        moved = ((moment[ends[1:]] - moment[ends[:-1]]) / inside.clamp_min(1e-300)).where(inside > 0, centres)
        if pinned is not None:
            moved[pinned] = 0.0
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres


def optimal(given: Distribution, count: int) -> torch.Tensor:
    """The best centres float64 [at most count], ascending, for the points joined into COARSE_POINTS cells at most."""
    points, mass = _coarse(given)
    size = len(points)
    count = min(count, size)
    cost = _costs(points, mass)
    best, cuts = cost[0], []
    for _ in range(count - 1):
        # best[j]: the least error of the first j cells; the last cluster is cells i to j.
        best, cut = (best[:, None] + cost).min(dim=0)
        cuts.append(cut)
    ends = [size]
    for cut in reversed(cuts):
        ends.insert(0, int(cut[ends[0]]))
    edges = torch.tensor([0, *ends]).unique()
    total, moment = _running(mass)[edges], _running(mass * points)[edges]
    return moment.diff() / total.diff()


def _costs(points: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
    """[P + 1, P + 1]: the squared error of cells i up to, but without, j around their mean; 0 for none, infinite for j < i."""
    total, moment, square = _running(mass), _running(mass * points), _running(mass * points.square())
    count, sums, squares = (part[None, :] - part[:, None] for part in (total, moment, square))
    cost = (squares - sums.square() / count.clamp_min(1e-300)).clamp_min_(0)
    cells = torch.arange(len(total), device=points.device)
    return cost.masked_fill_(cells[:, None] == cells, 0).masked_fill_(cells[:, None] > cells, torch.inf)


def _coarse(given: Distribution) -> tuple[torch.Tensor, torch.Tensor]:
    """Joined at edges half of which are equally spaced, for the tails, and half of equal mass, for where most weights are."""
    if len(given.points) <= COARSE_POINTS:
        return given.points, given.mass
    half = COARSE_POINTS // 2
    shares = torch.linspace(0, 1, half + 1, dtype=torch.float64, device=given.points.device)[1:-1]
    low, high = given.points[0], given.points[-1]
    spaced = torch.searchsorted(given.points, low + (high - low) * shares)
    heavy = torch.searchsorted(given.mass.cumsum(0), given.mass.sum() * shares)
    edges = torch.cat([spaced, heavy, spaced.new_tensor([0, len(given.points)])]).unique()
    mass = _running(given.mass)[edges].diff()
    return _running(given.mass * given.points)[edges].diff() / mass, mass


def _running(values: torch.Tensor) -> torch.Tensor:
    """[P + 1]: the sum of the first i."""
    return torch.cat([values.new_zeros(1), values.cumsum(0)])
