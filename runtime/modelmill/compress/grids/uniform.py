"""Uniform: equally spaced values, w ~ scale * (q - zero), |w - scale * (q - zero)| <= scale / 2 where nothing is clipped.

Symmetric: q from -(2^(b-1) - 1) to 2^(b-1) - 1, zero 0, scale = max |w| / (2^(b-1) - 1). The most negative code stays unused,
so that the grid is symmetric. Asymmetric: 2^b values from the smallest weight (or 0) to the largest (or 0), so that 0 is on the
grid; the zero is rounded to a whole number. `clipping` shrinks the range (`clipping.py`).
Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference".
"""

from dataclasses import dataclass

import torch

from modelmill.compress.codes import Codes
from modelmill.compress.grids.clipping import Clipping, MinMax, bounds
from modelmill.compress.grids.grid import (
    Granularity,
    blocks,
    check_granularity,
    check_whole,
    for_each_row,
    grouped,
    safe_scale,
)

NAME = "Uniform"


@dataclass(frozen=True, slots=True, kw_only=True)
class Uniform:
    bits: int = 8
    granularity: Granularity = "Channel"
    group_size: int = 64
    symmetric: bool = True
    clipping: Clipping = MinMax()  # noqa: RUF009  # frozen: sharing one is safe

    def __post_init__(self) -> None:
        check_whole("bits", self.bits, least=2, most=8)
        check_granularity(self.granularity, self.group_size)

    @property
    def holds_zero(self) -> bool:
        return True

    @property
    def quick(self) -> bool:
        return not self.clips

    @property
    def clips(self) -> bool:
        return not isinstance(self.clipping, MinMax)

    def encode(self, weight: torch.Tensor, *, name: str) -> Codes:
        values = grouped(weight, granularity=self.granularity, group_size=self.group_size, name=name)
        # Block by block, so that the many passes of a search stay in the cache.
        parts = [self._encode(block) for block in blocks(values)]
        numbers, scale, zero = (torch.cat(part) for part in zip(*parts, strict=True))
        outputs = weight.shape[0]
        return to_codes(
            NAME,
            numbers.reshape(outputs, -1),
            bits=self.bits,
            scale=for_each_row(scale, outputs),
            zero=None if self.symmetric else for_each_row(zero, outputs).to(torch.int8),
            shape=tuple(weight.shape),
        )

    def _encode(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        low, high = bounds(values, clipping=self.clipping, symmetric=self.symmetric, rounded=self._rounded)
        scale, zero = self._fit(low, high)
        return self._round(values, scale, zero).to(torch.int8), scale, zero

    def _rounded(self, values: torch.Tensor, *, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        scale, zero = self._fit(low, high)
        return self._round(values, scale, zero).sub_(zero[..., None]).mul_(scale[..., None])

    def _fit(self, low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and zero of a grid from low to high."""
        least, most = self._range()
        if self.symmetric:
            return safe_scale(high, steps=most), torch.zeros_like(high)
        scale = safe_scale(high - low, steps=most - least)
        return scale, (least - low / scale).round_().clamp_(least, most)

    def _round(self, values: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
        return (values / scale[..., None]).add_(zero[..., None]).round_().clamp_(*self._range())

    def _range(self) -> tuple[int, int]:
        half = 1 << (self.bits - 1)
        return (1 - half if self.symmetric else -half), half - 1


def width(bits: int) -> int:
    """Bits in the file of numbers of so many bits."""
    return next(stored for stored in (1, 2, 4, 8) if stored >= bits)


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
    stored = width(bits)
    half = 1 << (stored - 1)
    levels = torch.arange(-half, half, dtype=torch.int8, device=numbers.device)
    codes = (numbers.to(torch.int16) + half).to(torch.uint8)
    return Codes(grid=grid, codes=codes, bits=stored, levels=levels, scale=scale, zero=zero, shape=shape, facts=facts)
