"""Weights and activations for the tests of sparse products."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import strategies as st

from modelmill.kernels import products
from modelmill.kernels.blocks import Blocks
from modelmill.kernels.sparse import Sparse

ISAS = ["reference", *(() if products.native is None else products.native.sets())]
Product = Callable[..., torch.Tensor]


def pruned(outputs: int, inputs: int, *, height: int = 1, kept: float = 0.4, seed: int = 0) -> torch.Tensor:
    """Rows in float32 with whole blocks of zeros."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(-(-outputs // height), inputs, generator=generator) < kept
    return torch.randn(outputs, inputs, generator=generator) * mask.repeat_interleave(height, dim=0)[:outputs]


def halved(rows: torch.Tensor) -> torch.Tensor:
    """The two smallest of every four set to 0."""
    fours = rows.view(rows.shape[0], -1, 4)
    return fours.scatter(2, fours.abs().argsort(dim=2)[..., :2], 0).view(rows.shape)


def as_codes(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 codes and a scale [N]."""
    scale = (rows.abs().amax(dim=1) / 127).clamp_min(1e-6)
    return (rows / scale[:, None]).round().to(torch.int8), scale


def answers(
    monkeypatch: pytest.MonkeyPatch, product: Product, x: torch.Tensor, weight: Blocks | Sparse, bias: torch.Tensor | None
) -> dict[str, torch.Tensor]:
    """The product by instruction set."""
    found = {}
    for isa in ISAS:
        monkeypatch.setattr(products, "ISA", isa)
        found[isa] = product(x, weight, bias)
    return found


shapes = st.tuples(st.integers(1, 40), st.integers(1, 50), st.integers(1, 9))
"""Outputs, inputs, rows of activations."""
