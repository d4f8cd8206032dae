"""Residue ("sub-integer"): r = round(w * 2^p) mod q is stored, and lifted to its centred representative.

    lift(r) = r where r <= (q - 1) / 2, else r - q        w ~ lift(r) / 2^p, |w - that| <= 2^-(p + 1)

The lift is exact when every round(w * 2^p) lies from -floor(q / 2) to floor((q - 1) / 2). A q for which it does not would
lose the multiples of q for good, so it is refused together with the smallest q that works: max(2 * highest + 1, -2 *
lowest). Without a p, the largest p at which q works is taken. q <= 2, 4 and 16 take 1, 2 and 4 bits, up to 256 takes 8. The
lift is the table of levels; residues of q and above never occur, and would mean 0. Szabo and Tanaka 1967, "Residue
Arithmetic and Its Applications to Computer Technology".
"""

from dataclasses import dataclass

import torch

from modelmill.compress.codes import Codes
from modelmill.compress.errors import CompressionError
from modelmill.compress.grids.fixed_point import LEAST_POINT, MOST_POINT, largest_point
from modelmill.compress.grids.grid import check_whole, finite
from modelmill.compress.grids.uniform import width

NAME = "Residue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Residue:
    modulus: int = 256
    """q"""
    point: int | None = None
    """p, the number of binary digits behind the point; may be negative."""

    def __post_init__(self) -> None:
        check_whole("q", self.modulus, least=2, most=256)
        if self.point is not None:
            check_whole("p", self.point, least=LEAST_POINT, most=MOST_POINT)

    @property
    def holds_zero(self) -> bool:
        return True

    @property
    def quick(self) -> bool:
        return True

    @property
    def clips(self) -> bool:
        return False

    def encode(self, weight: torch.Tensor, *, name: str) -> Codes:
        rows = finite(weight, name=name)
        largest = largest_point(rows, least=-(self.modulus // 2), most=(self.modulus - 1) // 2)
        point = self.point if self.point is not None else largest
        if point is None or largest is None or point > largest:
            raise CompressionError(
                f"tensor {name!r}: q {self.modulus} loses information at p {point}; {_hint(rows, point, largest)}"
            )
        residues = (rows * 2.0**point).round_().remainder_(self.modulus).to(torch.uint8)
        bits = width((self.modulus - 1).bit_length())
        return Codes(
            grid=NAME,
            codes=residues,
            bits=bits,
            levels=lift(self.modulus, bits=bits).to(rows.device),
            scale=rows.new_full((rows.shape[0], 1), 2.0**-point),
            shape=tuple(weight.shape),
            facts={"p": point, "q": self.modulus},
        )


def lift(modulus: int, *, bits: int) -> torch.Tensor:
    """int8 [2 ** bits]: the centred representative of each residue, 0 from the modulus on."""
    residues = torch.arange(1 << bits)
    centred = residues.where(residues <= (modulus - 1) // 2, residues - modulus)
    return centred.where(residues < modulus, 0).to(torch.int8)


def _hint(rows: torch.Tensor, point: int | None, largest: int | None) -> str:
    """What works instead."""
    if point is None:
        return "no p works: train with weight decay"
    low, high = (round(float(bound) * 2.0**point) for bound in torch.aminmax(rows))
    workable = max(2 * high + 1, -2 * low, 2)
    smallest = f"the smallest q that works is {workable}" + ("" if workable <= 256 else ", and q goes up to 256")
    return smallest + ("" if largest is None else f"; with this q, the largest p that works is {largest}")
