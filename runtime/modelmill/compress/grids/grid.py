"""What every grid is: a function from a weight to codes, with settings; and how weights share a scale.

A grid is a frozen dataclass that refuses wrong settings when it is made. Its error bounds hold for each weight, in exact
arithmetic; float32 adds a few parts in 2^22.
"""

import math
from collections.abc import Iterator
from typing import Literal, Protocol, get_args

import torch

from modelmill.compress.codes import Codes, rows_of
from modelmill.compress.errors import CompressionError

Granularity = Literal["Tensor", "Channel", "Group"]
"""Who shares a scale: all weights, those of an output channel, or so many inputs of one."""
BLOCK = 1 << 18
"""Weights that a search looks at in one go: about 1 MiB of float32, so that it stays in the cache."""


class Grid(Protocol):
    @property
    def holds_zero(self) -> bool:
        """Whether a weight of exactly 0 stays exactly 0, so that the grid may follow pruning."""
        ...

    @property
    def quick(self) -> bool:
        """Whether `encode` costs little more than rounding, so that training can call it at each step."""
        ...

    @property
    def clips(self) -> bool:
        """Whether weights may lie beyond the outermost value; the grid is evenly spaced then."""
        ...

    def encode(self, weight: torch.Tensor, *, name: str) -> Codes:
        """The weight [N, ...] on this grid; `name` is for errors, CompressionError when it cannot be."""
        ...


def grouped(weight: torch.Tensor, *, granularity: Granularity, group_size: int, name: str) -> torch.Tensor:
    """float32 [N, G, K / G] of a weight [N, ...], channels last; for Tensor [1, 1, N * K]."""
    rows = finite(weight, name=name)
    if granularity == "Tensor":
        return rows.reshape(1, 1, -1)
    if granularity == "Channel":
        return rows.unsqueeze(1)
    if rows.shape[1] % group_size:
        raise CompressionError(
            f"tensor {name!r}: groupSize {group_size} does not divide its {rows.shape[1]} inputs; "
            "use a divisor, or granularity Channel"
        )
    return rows.reshape(rows.shape[0], -1, group_size)


def groups_fit(group_size: int, shape: tuple[int, ...]) -> bool:
    """Whether groups of a weight [N, ...] are whole, and end where a kernel's four channels do."""
    return math.prod(shape[1:]) % group_size == 0 and (len(shape) == 2 or shape[1] % 4 == 0)


def finite(weight: torch.Tensor, *, name: str) -> torch.Tensor:
    """The rows of the weight, float32, after a look at every value."""
    if weight.dim() < 2 or not weight.numel():
        raise CompressionError(f"tensor {name!r}: shape {list(weight.shape)} is not that of a layer's weight [N, ...]")
    rows = rows_of(weight.detach()).to(torch.float32)
    if not bool(rows.isfinite().all()):
        count = int((~rows.isfinite()).sum())
        raise CompressionError(f"tensor {name!r}: {count} values are not finite; train again with a lower lr")
    return rows


def safe_scale(largest: torch.Tensor, *, steps: float) -> torch.Tensor:
    """largest / steps, and 1 for groups of zeros; never below the smallest normal number, where a division would end at 0."""
    scale = (largest / steps).clamp_min(torch.finfo(torch.float32).tiny)
    return scale.where(largest > 0, torch.ones_like(scale))


def for_each_row(part: torch.Tensor, outputs: int) -> torch.Tensor:
    """Scales or zeros [N, G] of those that `grouped` gave [N, G] or [1, 1]."""
    return part.expand(outputs, -1).contiguous()


def blocks(values: torch.Tensor) -> Iterator[torch.Tensor]:
    """Parts [n, G, K / G] of grouped values, of about BLOCK weights each, in order; at least one row."""
    return iter(values.split(max(1, BLOCK // max(1, values[0].numel()))))


def check_whole(field: str, value: object, *, least: int, most: int) -> None:
    """Refuses a setting that is not a whole number in this range."""
    if type(value) is not int or not least <= value <= most:
        raise CompressionError(f"{field} {value!r} must be a whole number from {least} to {most}")


def check_granularity(granularity: str, group_size: int) -> None:
    if granularity not in get_args(Granularity):
        raise CompressionError(f"granularity {granularity!r} must be one of {', '.join(get_args(Granularity))}")
    check_whole("groupSize", group_size, least=1, most=1 << 24)
