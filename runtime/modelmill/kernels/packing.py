"""Steps of a coded weight packed into runs, whose products fit 16-bit sums: see runtime/native/kernels/packing.hpp.

With AVX2 a layer takes two thirds of the time that operands of 16 bits take (MiniLM, 256 rows). Which steps go together depends
on the codes alone, so it is found once, when many rows first come; it takes a twentieth of the codes' bytes.
"""

from typing import NamedTuple

import torch

from modelmill.kernels import native, tiles
from modelmill.kernels.weight import Coded

MIDDLE = 128
"""Added to activations, to make them unsigned."""
SETS = ("avx2",)
"""Instruction sets that gain by it: AVX512-VNNI adds in 32 bits anyway."""


class Packed(NamedTuple):
    """A linear weight's."""

    lengths: torch.Tensor
    """uint8 [tiles, steps]: steps of each run, then zeros"""
    order: torch.Tensor
    """uint16 [tiles, steps]"""
    shift: torch.Tensor
    """int32 [tiles, 16]: MIDDLE times the sum of an output's codes"""

    def numbers(self) -> tuple[int, ...]:
        return self.lengths.data_ptr(), self.order.data_ptr(), self.shift.data_ptr()


def packed(weight: Coded) -> Packed | None:
    """For int8 codes that are their levels, with one group. None where it does not pay here, or codes are too large.

    Codes of 7 bits always fit; of 8 bits those do whose neighbours are not both large.
    """
    plain = weight.bits == 8 and weight.levels is None and weight.zero is None and weight.check() == 1
    if not plain or native.chosen.isa not in SETS:
        return None
    steps = -(-weight.inputs // tiles.QUAD)
    runs = runs_of(weight, steps, largest=MIDDLE + 127)
    if runs is None:
        return None
    # [tiles, blocks, 16 * 4] bytes: see `tiles.pack`.
    sums = weight.codes.view(torch.int8).view(len(weight.codes), -1, tiles.ROWS, tiles.QUAD).sum(dim=(1, 3), dtype=torch.int32)
    return Packed(*runs, shift=MIDDLE * sums)


def runs_of(weight: Coded, steps: int, *, largest: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Lengths and order, for activations of 0..largest; None where a step does not fit by itself."""
    shape = (-(-weight.outputs // tiles.ROWS), steps)
    lengths, order = torch.empty(shape, dtype=torch.uint8), torch.empty(shape, dtype=torch.uint16)
    found = native.chosen.runs(*weight.numbers(1), steps, largest, lengths.data_ptr(), order.data_ptr())
    return (lengths, order) if found else None
