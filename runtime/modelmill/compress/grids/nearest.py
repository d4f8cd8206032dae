"""A changed weight on the values that codes already have: scales, zeros and levels stay, only the codes are chosen anew.

What training with a grid does between two fits that are too slow for each step.
"""

from dataclasses import replace

import torch

from modelmill.compress.codes import Codes, rows_of
from modelmill.compress.errors import CompressionError
from modelmill.compress.grids.codebook import midpoints


def reassign(codes: Codes, weight: torch.Tensor) -> Codes:
    """The codes of the nearest values to a weight of the same shape; never farther from it than `codes` were.

    Even grids take all whole numbers of their bits, the most negative only where it was in use; others what their levels list.
    """
    if tuple(weight.shape) != codes.shape:
        raise CompressionError(f"weight of shape {list(weight.shape)}: the codes are for {list(codes.shape)}")
    rows = rows_of(weight.detach()).to(torch.float32)
    places = rows.reshape(rows.shape[0], codes.scale.shape[1], -1) / codes.scale[..., None]
    if codes.zero is not None:
        places += codes.zero.to(torch.float32)[..., None]
    places = places.flatten(1)
    numbers = _uneven(codes)
    if numbers is None:
        return replace(codes, codes=_even(codes, places))
    nearest = torch.bucketize(places, midpoints(numbers), out_int32=True)
    if codes.levels is None:
        return replace(codes, codes=numbers[nearest])
    first = (codes.levels[None, :] == numbers[:, None]).to(torch.uint8).argmax(dim=1)
    return replace(codes, codes=first.to(torch.uint8)[nearest])


def _uneven(codes: Codes) -> torch.Tensor | None:
    """int8, ascending: the numbers that codes may mean where these are not simply all of so many bits."""
    if codes.levels is None:
        return codes.codes.unique() if "clusters" in codes.facts else None
    half = len(codes.levels) // 2
    even = torch.arange(-half, half, dtype=torch.int8, device=codes.levels.device)
    return None if half > 1 and torch.equal(codes.levels, even) else codes.levels.unique()


def _even(codes: Codes, places: torch.Tensor) -> torch.Tensor:
    """The codes of whole numbers of so many bits."""
    half = 1 << (int(codes.facts.get("numberBits", codes.bits)) - 1)
    first = 0 if codes.levels is None else len(codes.levels) // 2
    least = -half if int(codes.codes.min()) <= first - half else 1 - half
    return places.round_().clamp_(least, half - 1).add_(first).to(codes.codes.dtype)
