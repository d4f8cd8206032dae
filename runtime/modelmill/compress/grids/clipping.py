"""Clipping: how far a grid reaches. What lies beyond becomes the outermost value; what lies within is rounded more finely.

MinMax clips nothing. Percentile reaches as far as that share of the values. MSE tries a number of shrink factors c and keeps
the c whose grid has the least sum of squared errors, sum (w - grid_c(w))^2: Banner et al. 2019, "Post training 4-bit
quantization of convolutional networks for rapid-deployment", find the like in closed form for Gaussian and Laplacian values;
a search needs no assumption.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

from modelmill.compress.errors import CompressionError
from modelmill.compress.grids.grid import BLOCK, check_whole

Bounds = tuple[torch.Tensor, torch.Tensor]
"""low <= 0 and high >= 0, each [N, G]"""


class Round(Protocol):
    def __call__(self, values: torch.Tensor, *, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        """Values [N, G, S] on the grid that reaches from low to high."""
        ...


@dataclass(frozen=True, slots=True)
class MinMax:
    """From the smallest value to the largest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentile:
    """To where this share of the values lies within, on each side; all of it for a group where that would leave nothing but 0."""

    percentile: float = 99.9

    def __post_init__(self) -> None:
        if not 50 <= self.percentile <= 100:
            raise CompressionError(f"percentile {self.percentile!r} must be from 50 to 100")

    def position(self, count: int) -> int:
        """Of the value at the upper end, 1 for the smallest."""
        return max(1, math.ceil(self.percentile / 100 * count))


@dataclass(frozen=True, slots=True, kw_only=True)
class MSE:
    """The least squared error among `steps` factors, from 1 down to `least`."""

    steps: int = 33
    least: float = 0.2

    def __post_init__(self) -> None:
        check_whole("steps", self.steps, least=2, most=1000)
        if not 0 < self.least < 1:
            raise CompressionError(f"least {self.least!r} must be above 0 and below 1")

    def factors(self) -> list[float]:
        return [1 - (1 - self.least) * step / (self.steps - 1) for step in range(self.steps)]


Clipping = MinMax | Percentile | MSE


def bounds(values: torch.Tensor, *, clipping: Clipping, symmetric: bool, rounded: Round) -> Bounds:
    """How far the grid of each group of values [N, G, S] reaches; low = -high where it is symmetric."""
    low, high = values.amin(dim=2).clamp_max(0), values.amax(dim=2).clamp_min(0)
    if isinstance(clipping, Percentile):
        low, high = _percentile(values, (low, high), clipping, symmetric=symmetric)
    if symmetric:
        high = torch.maximum(-low, high)
        low = -high
    return _least_error(values, (low, high), clipping, rounded) if isinstance(clipping, MSE) else (low, high)


def _percentile(values: torch.Tensor, whole: Bounds, clipping: Percentile, *, symmetric: bool) -> Bounds:
    count = values.shape[2]
    position = clipping.position(count)
    if symmetric:
        high = values.abs().kthvalue(position, dim=2).values
        low = -high
    else:
        high = values.kthvalue(position, dim=2).values.clamp_min(0)
        low = values.kthvalue(count + 1 - position, dim=2).values.clamp_max(0)
    nothing = (low == 0) & (high == 0)
    return low.where(~nothing, whole[0]), high.where(~nothing, whole[1])


def _least_error(values: torch.Tensor, whole: Bounds, clipping: MSE, rounded: Round) -> Bounds:
    best = torch.ones_like(whole[0])
    least = torch.full_like(best, math.inf)
    for factor in clipping.factors():
        low, high = whole[0] * factor, whole[1] * factor
        error = squared_error(values, partial(rounded, low=low, high=high))
        best = best.where(error >= least, torch.full_like(best, factor))
        least = torch.minimum(error, least)
    return whole[0] * best, whole[1] * best


def squared_error(values: torch.Tensor, rounded: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """[N, G]: summed over each group of values [N, G, S], which are looked at in parts that stay in the cache."""
    parts = values.split(max(1, BLOCK // max(1, values.shape[0] * values.shape[1])), dim=2)
    return torch.stack([(rounded(part) - part).square_().sum(dim=2) for part in parts]).sum(dim=0)
