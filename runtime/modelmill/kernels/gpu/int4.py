"""Up to 16 evenly spaced values in 4 bits, times bfloat16: tinygemm, which torch has.

It takes codes q from 0 to 15, and for each group of inputs a scale and a zero, and multiplies by (q - 8) * scale + zero. Where
the levels of a weight are middle + step * (q - 8), whole numbers all of them,

    w = s * (level - z) = (q - 8) * (s * step) + s * (middle - z)

Uniform, fixed point, dynamic range, residues, ternary and binary weights are of that kind, in whatever order their tables name
the levels; Gaussian and learned ones are not. Scale and zero become bfloat16, and so does each weight: relative errors of at
most 2^-8 each, as that of the activations. The middle is as near to 0 as 16 codes allow, so that the zero, whose error is
one of all the group's values, is small.
"""

import math
from typing import NamedTuple, Self

import torch

from modelmill.kernels.gpu.way import Capability, Trial, Way, too_old
from modelmill.kernels.gpu.whole import Whole
from modelmill.kernels.reference import LARGEST

CODES, MIDDLE = 16, 8
GROUPS = (256, 128, 64, 32)
"""Inputs that may share a scale."""
TILE = 16
INNER_TILES = (8, 4, 2)
"""Tiles of inputs that lie side by side: the more, the wider a thread reads."""
FARTHEST = 16
"""Steps from 0 to code 8: from farther, bfloat16 would move values by more than a sixteenth of a step."""


class Spacing(NamedTuple):
    middle: int
    """What code 8 means."""
    step: int


class Held(NamedTuple):
    """What tinygemm multiplies by, before it is packed."""

    codes: torch.Tensor
    """uint8 [N, K], 0 to 15"""
    group: int
    scale_and_zero: torch.Tensor
    """bfloat16 [K / group, N, 2]"""


class Int4(Way):
    name = "int4 tinygemm"
    precision = torch.bfloat16
    levels = tuple(range(-MIDDLE, MIDDLE))
    trials = (
        Trial(16, 32), Trial(24, 192, groups=3, zeros=True), Trial(32, 256, groups=8, zeros=True), Trial(64, 512, groups=4),
        Trial(8, 512, groups=2, zeros=True),
    )  # fmt: skip
    codes: torch.Tensor
    """int32 [N / 8, K / (16 * inner tiles), 32, inner tiles / 2]"""
    scale_and_zero: torch.Tensor

    @classmethod
    def refusal(cls, weight: Whole, capability: Capability) -> str | None:
        spacing = spaced(weight.levels)
        if spacing is None:
            return f"its values are no {CODES} even steps"
        if group_of(weight) is None or weight.outputs % 8:
            return f"{weight.outputs} outputs and groups of {weight.group} inputs, 8 and {GROUPS[-1]} have to divide them"
        if float(_offset(weight, spacing).abs().max()) > FARTHEST:
            return f"0 is more than {FARTHEST} steps from the middle of its values"
        return too_old((8, 0), capability)

    @classmethod
    def of(cls, weight: Whole, bias: torch.Tensor | None) -> Self:
        held = hold(weight)
        return cls(weight, bias, codes=cls.packed(held.codes), scale_and_zero=held.scale_and_zero)

    @classmethod
    def packed(cls, codes: torch.Tensor) -> torch.Tensor:
        """uint8 [N, K] as `multiply` takes them."""
        inner = next(inner for inner in INNER_TILES if codes.shape[1] % (TILE * inner) == 0)
        # Of two neighbours in a byte the first is above.
        packed: torch.Tensor = torch.ops.aten._convert_weight_to_int4pack(codes[:, ::2] << 4 | codes[:, 1::2], inner)
        return packed

    def multiply(self, rows: torch.Tensor, group: int) -> torch.Tensor:
        """bfloat16 [M, K] times the weight transposed: bfloat16 [M, N]."""
        y: torch.Tensor = torch.ops.aten._weight_int4pack_mm(rows, self.codes, group, self.scale_and_zero)
        return y

    def product(self, x: torch.Tensor) -> torch.Tensor:
        if self.activation_scale is not None:
            # Calibration, and training with it, cut off what lies beyond; what is not finite has to be seen all the same.
            most = LARGEST * self.activation_scale
            x = torch.where(x.isfinite(), x.clamp(-most, most), torch.nan)
        return self.multiply(x.to(torch.bfloat16).contiguous(), self.inputs // self.scale_and_zero.shape[0])


def spaced(levels: tuple[int, ...]) -> Spacing | None:
    """The steps that the levels lie on, in any order and with gaps; None where they are more than 16."""
    lowest = min(levels)
    step = math.gcd(*(level - lowest for level in levels)) or 1
    count = (max(levels) - lowest) // step + 1
    if count > CODES:
        return None
    first = min(max(0, MIDDLE + round(lowest / step)), CODES - count)
    return Spacing(lowest + (MIDDLE - first) * step, step)


def group_of(weight: Whole) -> int | None:
    """The most inputs that may share a scale; scales of larger groups are repeated."""
    return next((group for group in GROUPS if weight.group % group == 0), None)


def hold(weight: Whole) -> Held:
    """The weight as tinygemm means it; it must have no refusal."""
    spacing, group = spaced(weight.levels), group_of(weight)
    assert spacing is not None and group is not None
    codes = (weight.numbers.to(torch.int16) - spacing.middle) // spacing.step + MIDDLE
    scale = (weight.scale * spacing.step).to(torch.bfloat16)
    # Of the rounded scale, so that a weight of 0 stays as near to 0 as it can.
    zero = (scale.to(torch.float32) * _offset(weight, spacing)).to(torch.bfloat16)
    pairs = torch.stack([scale, zero], dim=2).repeat_interleave(weight.group // group, dim=1)
    return Held(codes.to(torch.uint8), group, pairs.transpose(0, 1).contiguous())


def _offset(weight: Whole, spacing: Spacing) -> torch.Tensor:
    """What code 8 stands for, in steps: float32 [N, G]."""
    zero = torch.zeros_like(weight.scale) if weight.zero is None else weight.zero.to(torch.float32)
    return (spacing.middle - zero) / spacing.step
