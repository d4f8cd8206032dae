"""The native module: which instruction set runs, checked against plain C++ at import.

`MODELMILL_KERNELS` limits it: `reference` (no native code), `portable`, `avx2`, `avx512vnni`.
"""

import logging
import os
from collections.abc import Callable
from types import ModuleType

import torch

from modelmill.kernels import tiles

module: ModuleType | None
try:
    from modelmill.kernels import _kernels as module
except ImportError:
    module = None  # built without a compiler

logger = logging.getLogger(__name__)
VARIABLE = "MODELMILL_KERNELS"
REFERENCE = "reference"
SETS = ("portable", "avx2", "avx512vnni")


class Chosen:
    """What runs: the module (none: the reference), a set's number and name, and why not a better one."""

    def __init__(self, module: ModuleType | None, number: int, isa: str, reason: str) -> None:
        self.module, self.number, self.isa, self.reason = module, number, isa, reason
        self.linear: Callable[..., None] = module.linear if module else _missing
        self.conv: Callable[..., None] = module.conv if module else _missing
        self.run: Callable[..., None] = getattr(module, "run", _missing)
        self.runs: Callable[..., None] = getattr(module, "runs", _missing)


def _missing(*_: float) -> None:
    raise RuntimeError("there is no native module: products run in plain torch")


def status() -> dict[str, str]:
    """What products run on: `isa`, and `reason` where something kept a better one away (else empty)."""
    return {"isa": chosen.isa, "reason": chosen.reason}


def choose(found: ModuleType | None, limit: str | None = None) -> Chosen:
    """The best instruction set up to `limit` whose results are those of plain C++, bit by bit."""
    if found is None:
        return Chosen(None, 0, REFERENCE, "the native module is not built: products run in plain torch, many times slower")
    if limit == REFERENCE:
        return Chosen(None, 0, REFERENCE, f"{VARIABLE}={limit}")
    reason = ""
    if limit is not None and limit not in SETS:
        reason, limit = f"{VARIABLE}={limit} is not known: say {REFERENCE}, {', '.join(SETS)}", None
    names: list[str] = found.names()
    best = len(names) - 1 if limit is None else min(len(names) - 1, SETS.index(limit))
    if limit is not None and best < len(names) - 1:
        reason = f"{VARIABLE}={limit}"
    for number in range(best, 0, -1):
        if agrees(found, number):
            return Chosen(found, number, names[number], reason)
        reason = f"{names[number]} gives other results than plain C++ on this machine"
        logger.warning("%s: it is not used", reason)
    return Chosen(found, 0, names[0], reason)


def agrees(found: ModuleType, number: int) -> bool:
    """Whether a set's results are those of plain C++ on some small products."""
    source = torch.Generator().manual_seed(1)
    inputs, outputs, groups = 96, 20, 3
    x = torch.randn(7, inputs, generator=source)
    scale = tiles.tile_scales(torch.rand(outputs, groups, generator=source))
    zero = tiles.tile_scales(torch.randint(-8, 8, (outputs, groups), generator=source, dtype=torch.int8))
    for bits in tiles.BITS:
        codes = torch.randint(0, 1 << bits, (outputs, inputs), generator=source, dtype=torch.uint8)
        tiled = tiles.pack(codes, bits)
        levels = torch.randint(-127, 128, (1 << bits,), generator=source, dtype=torch.int8)
        for table in (None, levels):
            for rows in (1, 4, 7):
                pair = [torch.empty(rows, outputs), torch.empty(rows, outputs)]
                for which, out in zip((0, number), pair, strict=True):
                    pointers = [item.data_ptr() if item is not None else 0 for item in (tiled, scale, table, zero)]
                    shape = (bits, outputs, inputs, groups, x.data_ptr(), rows)
                    found.linear(which, *pointers, 0, *shape, 0.0, 1, out.data_ptr(), 0)
                if not torch.equal(*pair):
                    return False
    return True


chosen = choose(module, os.environ.get(VARIABLE))
