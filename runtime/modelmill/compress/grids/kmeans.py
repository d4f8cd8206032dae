"""Weight sharing: the weights of a tensor take at most k values, the centres of k clusters found by k-means.

    minimise the sum over weights of (w - nearest centre)^2

Lloyd's rounds from k centres that are equally spaced (Linear: large weights keep a centre near them, which Han et al. found
best) or at equal shares of the weights (Quantile). Always the same for the same weights. With `zero_kept` one centre is 0,
so that what was pruned stays pruned. Weights that already take at most k values keep them. Han et al. 2016, "Deep
Compression". Training the centres is `qat.Centres`. How centres are rounded, and what granularity means here: `codebook.py`.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from modelmill.compress.codes import Codes
from modelmill.compress.errors import CompressionError
from modelmill.compress.grids.codebook import magnitudes, on_codebook, weight_of_errors
from modelmill.compress.grids.distribution import Distribution, distribution, lloyd
from modelmill.compress.grids.grid import Granularity, check_granularity, check_whole, grouped

NAME = "KMeans"
Start = Literal["Linear", "Quantile"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KMeans:
    clusters: int = 16
    """k; up to 2, 4 and 16 take 1, 2 and 4 bits, up to 256 take 8."""
    granularity: Granularity = "Tensor"
    group_size: int = 64
    start: Start = "Linear"
    zero_kept: bool = False

    def __post_init__(self) -> None:
        check_whole("clusters", self.clusters, least=2, most=256)
        check_granularity(self.granularity, self.group_size)
        if self.start not in get_args(Start):
            raise CompressionError(f"start {self.start!r} must be one of {', '.join(get_args(Start))}")

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
        centres = self._centres(values / unit[..., None], weight_of_errors(unit, values))
        return on_codebook(NAME, values, centres=centres, unit=unit, size=self.clusters, shape=tuple(weight.shape))

    def _centres(self, share: torch.Tensor, counts: torch.Tensor | None) -> torch.Tensor:
        if self.zero_kept:  # Zeros would pull the starts to themselves, and have a centre anyway.
            there = share != 0
            share, counts = share[there], None if counts is None else counts[there]
        given = distribution(share, importance=counts)
        room = self.clusters - self.zero_kept
        if len(given.points) <= room:
            return torch.cat([given.points, given.points.new_zeros(int(self.zero_kept))]).sort().values
        start = _linear(given, self.clusters) if self.start == "Linear" else _quantiles(given, self.clusters)
        return lloyd(given, start, zero_kept=self.zero_kept)


def _linear(given: Distribution, count: int) -> torch.Tensor:
    spaced = torch.linspace(0, 1, count, dtype=torch.float64, device=given.points.device)
    low, high = given.points[0], given.points[-1]
    return low + spaced * (high - low)


def _quantiles(given: Distribution, count: int) -> torch.Tensor:
    shares = (torch.arange(count, dtype=torch.float64, device=given.points.device) + 0.5) / count
    found = torch.searchsorted(given.mass.cumsum(0), given.mass.sum() * shares)
    starts: torch.Tensor = given.points[found.clamp_max(len(given.points) - 1)].unique()
    return starts
