"""Fixed point: whole numbers of b bits and a binary point, w ~ round(w * 2^p) / 2^p, |error| <= 2^-(p + 1) unless saturated.

The numbers are in two's complement, -2^(b-1) to 2^(b-1) - 1; one scale 2^-p for the whole tensor, so that a product needs
shifts only. A p that is given must hold every weight. When none is given, p has the least squared error, from the largest
that holds every weight to b more: what saturates is then paid for by what is rounded more finely. No smaller p can be
better, since the values of a smaller p are all on the grid of the larger one. Yates 2009, "Fixed-Point Arithmetic: An
Introduction".
"""

from dataclasses import dataclass

import torch

from modelmill.compress.codes import Codes
from modelmill.compress.errors import CompressionError
from modelmill.compress.grids.clipping import squared_error
from modelmill.compress.grids.grid import check_whole, finite
from modelmill.compress.grids.uniform import to_codes

NAME = "FixedPoint"
LEAST_POINT, MOST_POINT = -100, 100
"""So that 2^p and 2^-p are normal float32 numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPoint:
    bits: int = 8
    point: int | None = None
    """p, the number of binary digits behind the point; may be negative."""

    def __post_init__(self) -> None:
        check_whole("bits", self.bits, least=2, most=8)
        if self.point is not None:
            check_whole("p", self.point, least=LEAST_POINT, most=MOST_POINT)

    @property
    def holds_zero(self) -> bool:
        return True

    @property
    def quick(self) -> bool:
        return self.point is not None

    @property
    def clips(self) -> bool:
        return self.point is None

    def encode(self, weight: torch.Tensor, *, name: str) -> Codes:
        rows = finite(weight, name=name)
        half = 1 << (self.bits - 1)
        largest = largest_point(rows, least=-half, most=half - 1)
        if largest is None or (self.point is not None and self.point > largest):
            hint = f"the largest p that works is {largest}" if largest is not None else "no p works: train with weight decay"
            raise CompressionError(
                f"tensor {name!r}: p {self.point} overflows {self.bits} bits, weights reach {float(rows.abs().max()):g}; {hint}"
            )
        point = self.point if self.point is not None else self._best(rows, largest)
        scale = rows.new_full((rows.shape[0], 1), 2.0**-point)
        return to_codes(
            NAME, self._round(rows, point).to(torch.int8), bits=self.bits, scale=scale, shape=tuple(weight.shape), p=point
        )

    def _round(self, values: torch.Tensor, point: int) -> torch.Tensor:
        half = 1 << (self.bits - 1)
        return (values * 2.0**point).round_().clamp_(-half, half - 1)

    def _best(self, rows: torch.Tensor, largest: int) -> int:
        whole = rows.reshape(1, 1, -1)
        points = range(largest, min(MOST_POINT, largest + self.bits) + 1)
        # min() keeps the first of equals: the smallest p.
        return min(points, key=lambda p: float(squared_error(whole, lambda part: self._round(part, p).mul_(2.0**-p))))


def largest_point(values: torch.Tensor, *, least: int, most: int) -> int | None:
    """The largest p at which round(w * 2^p) lies from `least` to `most` for all values; b - 1 digits of zeros for zeros."""
    low, high = (float(bound) for bound in torch.aminmax(values))
    if low == high == 0:
        return most.bit_length()
    points = range(MOST_POINT, LEAST_POINT - 1, -1)
    return next((p for p in points if least <= round(low * 2.0**p) and round(high * 2.0**p) <= most), None)
