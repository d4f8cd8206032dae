"""A weight as small whole numbers and what they mean, whatever grid chose them.

A weight [N, ...] is seen as rows [N, K], channels last: a convolution's [N, C, h, w] as [N, h * w * C].
For group g = k // (K / G):

    w[n, k] = scale[n, g] * (levels[code[n, k]] - zero[n, g])

This is the form in memory, one byte a code; `codecs.coded` is the form in a file.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

WIDTHS = (1, 2, 4, 8)
"""Bits that a code may take in a file."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Codes:
    grid: str
    """Name of the grid that chose them, for people and for exports."""
    codes: torch.Tensor
    """uint8 [N, K], each an index into `levels`; int8 [N, K] where there are no levels: the codes are the numbers then."""
    bits: int
    """Of a code in the file: one of WIDTHS, and 8 where there are no levels."""
    scale: torch.Tensor
    """float32 [N, G], finite and above 0; G divides K."""
    shape: tuple[int, ...]
    """Of the dense weight."""
    levels: torch.Tensor | None = None
    """int8 [2 ** bits]"""
    zero: torch.Tensor | None = None
    """int8 [N, G]; None is 0 throughout."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What else the grid wants to be remembered, such as the p of fixed point: numbers and words."""

    def decode(self) -> torch.Tensor:
        """The dense weight that the codes stand for, float32."""
        return weight_of(meaning(self.codes, scale=self.scale, levels=self.levels, zero=self.zero), self.shape)


def meaning(codes: torch.Tensor, *, scale: torch.Tensor, levels: torch.Tensor | None, zero: torch.Tensor | None) -> torch.Tensor:
    """float32 [R, K] of codes [R, K], scale [R, G] and zero [R, G]."""
    numbers = codes if levels is None else levels[codes.long()]
    grouped = numbers.to(torch.float32).view(codes.shape[0], scale.shape[1], -1)
    if zero is not None:
        grouped = grouped - zero.to(torch.float32)[..., None]
    return (grouped * scale[..., None]).flatten(1)


def rows_of(weight: torch.Tensor) -> torch.Tensor:
    """A weight [N, ...] as rows [N, K], channels last."""
    return weight.flatten(1) if weight.dim() == 2 else weight.movedim(1, -1).reshape(weight.shape[0], -1)


def weight_of(rows: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The weight [N, ...] of this shape that has these rows."""
    if len(shape) == 2:
        return rows.view(*shape)
    return rows.view(rows.shape[0], *shape[2:], shape[1]).movedim(-1, 1)


def inputs_of(shape: Sequence[int]) -> int:
    """K"""
    return math.prod(shape[1:])
