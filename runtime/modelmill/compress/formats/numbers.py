"""Whole numbers with scales, which is what other formats have, from and to our codes.

    w[n, k] = scale[n, g] * (number[n, k] - zero[n, g])

Numbers are b-bit two's complement. Formats that count from 0 have them shifted by 2^(b-1), and their zeros too.
"""

from dataclasses import dataclass

import torch

from modelmill.compress.codecs.coded import CodedWeight
from modelmill.compress.errors import BadArtifact
from modelmill.compress.grids.uniform import NAME, to_codes

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
"""What a scale may be stored as."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Numbers:
    numbers: torch.Tensor
    """int8 [N, K], channels last."""
    bits: int
    scale: torch.Tensor
    """float32 [N, G]"""
    zero: torch.Tensor | None
    """int8 [N, G]"""
    shape: tuple[int, ...]


def signed(codes: torch.Tensor, *, bits: int) -> torch.Tensor:
    """int8 numbers of uint8 codes that count from 0."""
    return (codes.to(torch.int16) - (1 << (bits - 1))).to(torch.int8)


def unsigned(numbers: torch.Tensor, *, bits: int) -> torch.Tensor:
    """uint8 codes that count from 0, of int8 numbers."""
    return (numbers.to(torch.int16) + (1 << (bits - 1))).to(torch.uint8)


def weight_of(found: Numbers, *, name: str) -> CodedWeight:
    """Refuses scales that no weight can have. A group of scale 0 becomes one of zeros, with scale 1."""
    scale = found.scale
    outputs, groups = scale.shape
    if not bool((scale.isfinite() & (scale >= 0)).all()):
        raise BadArtifact(f"tensor {name!r}: its scales must be finite and not below 0")
    numbers, empty = found.numbers, scale == 0
    if bool(empty.any()):
        nothing = torch.zeros_like(scale, dtype=torch.int8) if found.zero is None else found.zero
        split = numbers.view(outputs, groups, -1)
        numbers = torch.where(empty[..., None], nothing[..., None], split).flatten(1)
        scale = torch.where(empty, torch.ones_like(scale), scale)
    zero = found.zero if found.zero is not None and bool(found.zero.any()) else None
    return CodedWeight.of(to_codes(NAME, numbers, bits=found.bits, scale=scale, zero=zero, shape=found.shape))


def numbers_of(weight: CodedWeight) -> Numbers:
    """The numbers that the codes stand for, with the grid's bits, or as many more as hold them all; at least 2.

    Levels of any grid are whole numbers of at most 8 bits, so this loses nothing; ternary takes 2 bits, a codebook up to 8.
    """
    codes = weight.loose()
    numbers = codes.codes if codes.levels is None else codes.levels[codes.codes.long()]
    given = codes.facts.get("numberBits")
    bits = given if type(given) is int and 2 <= given <= 8 else max(2, codes.bits)
    least, most = (int(bound) for bound in numbers.aminmax())
    if codes.zero is not None:
        least, most = min(least, int(codes.zero.min())), max(most, int(codes.zero.max()))
    while least < -(1 << (bits - 1)) or most >= 1 << (bits - 1):
        bits += 1
    return Numbers(numbers=numbers, bits=bits, scale=codes.scale, zero=codes.zero, shape=codes.shape)
