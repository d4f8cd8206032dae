"""What every grid is: a function from a weight to codes, with settings; and how weights share a scale."""

from typing import Literal, Protocol

import torch

from modelmill.compress.codes import Codes, rows_of
from modelmill.compress.errors import CompressionError

Granularity = Literal["Tensor", "Channel", "Group"]
"""Who shares a scale: all weights, those of an output channel, or so many inputs of one."""


class Grid(Protocol):
    def encode(self, weight: torch.Tensor, *, name: str) -> Codes:
        """The weight [N, ...] on this grid; `name` is for errors, CompressionError when it cannot be."""
        ...


def grouped(weight: torch.Tensor, *, granularity: Granularity, group_size: int, name: str) -> torch.Tensor:
    """float32 [N, G, K / G] of a weight [N, ...], channels last; for Tensor [1, 1, N * K]."""
    rows = finite(weight, name=name)
    if granularity == "Tensor":
        return rows.view(1, 1, -1)
    if granularity == "Channel":
        return rows.unsqueeze(1)
    if rows.shape[1] % group_size:
        raise CompressionError(
            f"tensor {name!r}: groupSize {group_size} does not divide its {rows.shape[1]} inputs; "
            "use a divisor, or granularity Channel"
        )
    return rows.view(rows.shape[0], -1, group_size)


def finite(weight: torch.Tensor, *, name: str) -> torch.Tensor:
    """The rows of the weight, float32, after a look at every value."""
    rows = rows_of(weight.detach()).to(torch.float32)
    if not bool(rows.isfinite().all()):
        count = int((~rows.isfinite()).sum())
        raise CompressionError(f"tensor {name!r}: {count} values are not finite; train again with a lower lr")
    return rows


def safe_scale(largest: torch.Tensor, *, steps: float) -> torch.Tensor:
    """largest / steps, and 1 for groups of zeros; never below the smallest normal number, where a division would end at 0."""
    scale = (largest / steps).clamp_min(torch.finfo(torch.float32).tiny)
    return scale.where(largest > 0, torch.ones_like(scale))
