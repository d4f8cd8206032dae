"""Codebooks: a weight becomes the nearest of a few values that need not be equally spaced.

    w ~ scale * level,  level int8, the largest |level| 127        |w - that| <= scale * (half the widest gap between levels)

for weights between the outermost levels. A codebook belongs to a whole tensor. Where channels or groups are to have their
own, each is first divided by its largest magnitude, and they share one codebook for what comes out: a codebook for each
channel cannot be expressed in the file, and would be as large as the codes of a small channel.
"""

from typing import Any

import torch

from modelmill.compress.codes import Codes
from modelmill.compress.grids.grid import for_each_row, safe_scale
from modelmill.compress.grids.uniform import width

LARGEST = 127
"""Values are multiples of 1/127 of the largest: off by 0.4 % of it at most."""
MOST_LEVELS = 16
"""Of a table; more values are stored as numbers of 8 bits themselves."""


def magnitudes(values: torch.Tensor) -> torch.Tensor:
    """The largest magnitude [N, G] of each group of values [N, G, S]; 1 for groups of zeros."""
    return safe_scale(values.abs().amax(dim=2), steps=1)


def weight_of_errors(unit: torch.Tensor, values: torch.Tensor) -> torch.Tensor | None:
    """What a squared error of values [N, G, S] / unit [N, G] counts in the values themselves; None where it is all the same."""
    return None if unit.numel() == 1 else unit.double().square()[..., None].expand_as(values)


def levels_of(centres: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Distinct levels int8 [at most k], ascending, and the largest |centre|, of centres [k]: centre ~ level * largest / 127."""
    largest = float(centres.abs().max())
    numbers = centres / largest * LARGEST if largest > 0 else centres
    return numbers.round().to(torch.int8).unique(), largest or 1.0


def on_codebook(
    grid: str,
    values: torch.Tensor,
    *,
    centres: torch.Tensor,
    unit: torch.Tensor,
    size: int,
    shape: tuple[int, ...],
    facts: dict[str, Any] | None = None,
) -> Codes:
    """Values [N, G, S] as codes of the nearest centre times unit [N, G].

    centres [k], of at most `size` values, which decides the bits: up to 16 get a table of levels, more are the
    numbers themselves.
    """
    levels, largest = levels_of(centres)
    levels = levels.to(values.device)
    scale = (unit * (largest / LARGEST)).clamp_min(torch.finfo(torch.float32).tiny)
    index = torch.bucketize(values / scale[..., None], midpoints(levels), out_int32=True)
    outputs = shape[0]
    index, scale = index.view(outputs, -1), for_each_row(scale, outputs)
    if size > MOST_LEVELS:
        facts = {**(facts or {}), "clusters": size}
        return Codes(grid=grid, codes=levels[index], bits=8, scale=scale, shape=shape, facts=facts)
    bits = width((size - 1).bit_length())
    return Codes(
        grid=grid,
        codes=index.to(torch.uint8),
        bits=bits,
        levels=filled(levels, bits=bits),
        scale=scale,
        shape=shape,
        facts=facts or {},
    )


def midpoints(levels: torch.Tensor) -> torch.Tensor:
    """float32 [L - 1]: where the nearest of ascending levels [L] changes."""
    return (levels[1:].to(torch.float32) + levels[:-1].to(torch.float32)) / 2


def filled(levels: torch.Tensor, *, bits: int) -> torch.Tensor:
    """A table of 2^bits levels; the last one is repeated, so that no code means a value that was not chosen."""
    return torch.cat([levels, levels[-1:].expand((1 << bits) - len(levels))])
