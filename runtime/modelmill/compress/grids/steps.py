"""Discretised: a piecewise constant function of the weight, at most 16 steps, thresholds and values learned from the data.

    w ~ v_i for t_i <= w < t_(i+1),   minimising the sum over weights of importance * (w - v(w))^2

The best values for given thresholds are the weighted means between them, and the best thresholds for given values the
midpoints between these, whatever the importance (Lloyd 1982; Max 1960, "Quantizing for minimum distortion"). The start is
the optimum of a coarser distribution, by dynamic programming, so it does not depend on luck as k-means does. Importance is
such as the squared gradient of the loss, which makes the sum its second-order change: Kim et al. 2024, "SqueezeLLM". How
values are rounded, and what granularity means here: `codebook.py`.
"""

from dataclasses import dataclass, field

import torch

from modelmill.compress.codes import Codes
from modelmill.compress.errors import CompressionError
from modelmill.compress.grids.codebook import magnitudes, on_codebook, weight_of_errors
from modelmill.compress.grids.distribution import distribution, lloyd, optimal
from modelmill.compress.grids.grid import Granularity, check_granularity, check_whole, finite, grouped

NAME = "Steps"


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    steps: int = 16
    granularity: Granularity = "Tensor"
    group_size: int = 64
    zero_kept: bool = False
    importance: torch.Tensor | None = field(default=None, compare=False, repr=False)
    """How much an error counts, of the weight's shape, at least 0; None is 1 throughout."""

    def __post_init__(self) -> None:
        check_whole("steps", self.steps, least=2, most=16)
        check_granularity(self.granularity, self.group_size)

    @property
    def holds_zero(self) -> bool:
        return self.zero_kept

    @property
    def quick(self) -> bool:
        return False

    @property
    def clips(self) -> bool:
        return False

    def encode(self, weight: torch.Tensor, *, name: str) -> Codes:
        values = grouped(weight, granularity=self.granularity, group_size=self.group_size, name=name)
        unit = magnitudes(values)
        share, counts = values / unit[..., None], self._counts(weight, unit, values, name=name)
        there = share != 0 if self.zero_kept else torch.ones_like(share, dtype=torch.bool)
        given = distribution(share[there], importance=None if counts is None else counts[there])
        if len(given.points):
            centres = optimal(given, self.steps - self.zero_kept)
            if self.zero_kept:
                centres = torch.cat([centres, centres.new_zeros(1)]).unique()
            centres = lloyd(given, centres, zero_kept=self.zero_kept)
        else:
            centres = given.points.new_zeros(1)
        return on_codebook(NAME, values, centres=centres, unit=unit, size=self.steps, shape=tuple(weight.shape))

    def _counts(self, weight: torch.Tensor, unit: torch.Tensor, values: torch.Tensor, *, name: str) -> torch.Tensor | None:
        """What an error of the shares counts: the importance, times the square of what they were divided by."""
        if self.importance is None:
            return weight_of_errors(unit, values)
        if self.importance.shape != weight.shape or bool((self.importance < 0).any()):
            raise CompressionError(
                f"tensor {name!r}: importance {list(self.importance.shape)} must have the weight's shape "
                f"{list(weight.shape)}, and no value below 0"
            )
        importance = finite(self.importance, name=f"{name} (importance)").to(values.device)
        return importance.view_as(values).double() * unit.double().square()[..., None]
