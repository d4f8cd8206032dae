"""Weights made up for the kernels' tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import NamedTuple

import torch

from modelmill.kernels import native, pack, tile_scales


class Made(NamedTuple):
    """The arguments of an operator after x."""

    codes: torch.Tensor
    scale: torch.Tensor
    levels: torch.Tensor | None
    zero: torch.Tensor | None
    bias: torch.Tensor | None


TABLES = ("none", "steps", "close", "any")
"""Kinds of levels: a code itself, evenly spaced, close together, as far apart as int8 allows."""


def weight(
    bits: int, outputs: int, inputs: int, *, groups: int = 1, table: str = "none", zero: bool = False, seed: int = 0
) -> Made:
    source = torch.Generator().manual_seed(seed)
    count = 1 << bits
    codes = torch.randint(0, count, (outputs, inputs), generator=source, dtype=torch.uint8)
    levels = {
        "none": None,
        "steps": (3 * torch.arange(count) - 5).clamp(-128, 127).to(torch.int8),
        "close": torch.randint(-16, 16, (count,), generator=source, dtype=torch.int8),
        "any": torch.randint(-128, 128, (count,), generator=source, dtype=torch.int8),
    }[table]
    zeros = torch.randint(-8, 9, (outputs, groups), generator=source, dtype=torch.int8)
    scale = torch.rand(outputs, groups, generator=source) / 64 + 1e-3
    bias = torch.randn(outputs, generator=source)
    return Made(pack(codes, bits), tile_scales(scale), levels, tile_scales(zeros) if zero else None, bias)


@contextmanager
def running(module: ModuleType | None, number: int = 0) -> Iterator[None]:
    """Products run on this set of instructions; on the reference without a module."""
    before = native.chosen
    native.chosen = native.Chosen(module, number, "", "")
    try:
        yield
    finally:
        native.chosen = before


def module() -> ModuleType:
    """The native module, without which no test here says anything."""
    assert native.module is not None
    return native.module


def sets() -> range:
    """The instruction sets of this processor; 0 is plain C++."""
    return range(len(module().names()))
