"""The kinds of compression that the search chooses from for one layer: a grid, a mask, both, or none.

Each is stored by a codec that has a kernel of its own, so that bytes and speed are those of the file as it is served.
"""

import math
from dataclasses import dataclass

import torch

from modelmill.compress.draft import HEIGHTS, Draft, Mask
from modelmill.compress.encode import encode_weight
from modelmill.compress.grids.clipping import MSE
from modelmill.compress.grids.grid import Grid, groups_fit
from modelmill.compress.grids.kmeans import KMeans
from modelmill.compress.grids.normal_float import NormalFloat
from modelmill.compress.grids.uniform import Uniform
from modelmill.compress.prune import blocks
from modelmill.compress.weight import WHOLE_ELEMENTS
from modelmill.compress.weights import Weight

DENSE = "dense"
GROUP = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    name: str
    grid: Grid | None = None
    block_sparsity: float = 0.0
    """Part of the blocks of 16 output channels x 1 input that goes, the smallest first."""

    def mask(self, weight: torch.Tensor) -> Mask | None:
        if not self.block_sparsity:
            return None
        return Mask(kept=blocks.mask(weight, height=HEIGHTS["16x1"], sparsity=self.block_sparsity), pattern="16x1")

    def encode(self, weight: torch.Tensor, *, name: str) -> Weight:
        """As `put` and then `encode.encode` would store it."""
        mask = self.mask(weight)
        return encode_weight(weight if mask is None else weight * mask.kept, mask, self.grid, name=name)

    def put(self, draft: Draft, name: str) -> None:
        """Makes the draft's weight of this name one of this kind."""
        if mask := self.mask(draft.module.get_parameter(name).detach()):
            draft.masks[name] = mask
        if self.grid is not None:
            draft.grids[name] = self.grid


CODED = (
    Kind(name="int8", grid=Uniform(bits=8)),
    Kind(name="nf4", grid=NormalFloat(bits=4, granularity="Group", group_size=GROUP)),
    Kind(name="kmeans4", grid=KMeans(clusters=16, granularity="Channel")),
    Kind(name="int4", grid=Uniform(bits=4, clipping=MSE())),
    Kind(name="kmeans2", grid=KMeans(clusters=4, granularity="Channel")),
)
BLOCKS = tuple(
    Kind(name=f"blocks{round(100 * sparsity)}-int8", grid=Uniform(bits=8), block_sparsity=sparsity) for sparsity in (0.5, 0.7)
)


def kinds_of(shape: tuple[int, ...]) -> tuple[Kind, ...]:
    """Those that make sense for a weight [N, ...], dense first."""
    fitting = [kind for kind in CODED if not isinstance(kind.grid, NormalFloat) or groups_fit(GROUP, shape)]
    return (Kind(name=DENSE), *fitting, *(BLOCKS if _has_blocks(shape) else ()))


def _has_blocks(shape: tuple[int, ...]) -> bool:
    """Small weights gain nothing: they are one tile, whatever is in it."""
    return shape[0] >= HEIGHTS["16x1"] and math.prod(shape) >= WHOLE_ELEMENTS
