"""Uniform: equally spaced values, w ~ scale * (q - zero), |w - scale * (q - zero)| <= scale / 2 where nothing is clipped.

Symmetric: q from -(2^(b-1) - 1) to 2^(b-1) - 1, zero 0, scale = max |w| / (2^(b-1) - 1). The most negative code stays unused,
so that the grid is symmetric. Asymmetric: 2^b values from the smallest weight (or 0) to the largest (or 0), so that 0 is
on the grid.
Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference".
"""

from dataclasses import dataclass

import torch

from modelmill.compress.codes import Codes
from modelmill.compress.grids.grid import Granularity, grouped, safe_scale

NAME = "Uniform"


@dataclass(frozen=True, slots=True, kw_only=True)
class Uniform:
    bits: int = 8
    granularity: Granularity = "Channel"
    group_size: int = 64
    symmetric: bool = True

    def encode(self, weight: torch.Tensor, *, name: str) -> Codes:
        values = grouped(weight, granularity=self.granularity, group_size=self.group_size, name=name)
        numbers, scale, zero = self._symmetric(values) if self.symmetric else self._asymmetric(values)
        return to_codes(
            NAME,
            numbers.reshape(weight.shape[0], -1),
            bits=self.bits,
            scale=_for_rows(scale, weight.shape[0]),
            zero=None if zero is None else _for_rows(zero, weight.shape[0]),
            shape=tuple(weight.shape),
        )

    def _symmetric(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        limit = (1 << (self.bits - 1)) - 1
        scale = safe_scale(values.abs().amax(dim=2), steps=limit)
        return (values / scale[..., None]).round_().clamp_(-limit, limit).to(torch.int8), scale, None

    def _asymmetric(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        low, high = values.amin(dim=2).clamp_max(0), values.amax(dim=2).clamp_min(0)
        least, steps = -(1 << (self.bits - 1)), (1 << self.bits) - 1
        scale = safe_scale(high - low, steps=steps)
        zero = (least - low / scale).round_().clamp_(least, least + steps)
        numbers = (values / scale[..., None] + zero[..., None]).round_().clamp_(least, least + steps)
        return numbers.to(torch.int8), scale, zero.to(torch.int8)


def _for_rows(values: torch.Tensor, rows: int) -> torch.Tensor:
    return values.expand(rows, -1).contiguous()


def to_codes(
    grid: str,
    numbers: torch.Tensor,
    *,
    bits: int,
    scale: torch.Tensor,
    shape: tuple[int, ...],
    zero: torch.Tensor | None = None,
    **facts: int | float | str,
) -> Codes:
    """Whole numbers int8 [N, K] of so many bits (two's complement): as they are above 4 bits, else by an index into levels."""
    facts |= {} if bits in (1, 2, 4, 8) else {"numberBits": bits}
    if bits > 4:
        return Codes(grid=grid, codes=numbers, bits=8, scale=scale, zero=zero, shape=shape, facts=facts)
    stored = bits if bits != 3 else 4
    half = 1 << (stored - 1)
    levels = torch.arange(-half, half, dtype=torch.int8)
    codes = (numbers.to(torch.int16) + half).to(torch.uint8)
    return Codes(grid=grid, codes=codes, bits=stored, levels=levels, scale=scale, zero=zero, shape=shape, facts=facts)
