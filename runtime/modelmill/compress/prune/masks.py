"""From scores to masks: which weights are kept, so that a fraction of them is zero, exactly.

A mask is bool, of the weight's shape, true where the weight is kept. For sparsity s of n scores, round(s * n) are dropped:
the smallest, and among equal ones those that come last. So a result never depends on the order of a sort.
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch

from modelmill.compress.errors import CompressionError

Scope = Literal["Global", "Layer"]
"""Whether scores are compared over all weights together, or within each weight."""


def kept_count(size: int, *, sparsity: float) -> int:
    """How many of `size` are kept: size - round(sparsity * size). CompressionError for a sparsity outside [0, 1]."""
    if not (math.isfinite(sparsity) and 0 <= sparsity <= 1):
        raise CompressionError(f"sparsity {sparsity} must be from 0 to 1")
    return size - round(sparsity * size)


def largest(scores: torch.Tensor, *, keep: int) -> torch.Tensor:
    """bool, the shape of `scores`: true at the `keep` largest, the first ones among equals. CompressionError for a NaN."""
    flat = scores.detach().flatten()
    if keep <= 0 or keep >= flat.numel():
        return torch.full(scores.shape, keep > 0, dtype=torch.bool, device=scores.device)
    check_scores(flat)
    least = flat.kthvalue(flat.numel() - keep + 1).values
    mask = flat > least
    equal = (flat == least).nonzero().flatten()
    mask[equal[: keep - int(mask.sum())]] = True
    return mask.view(scores.shape)


def largest_of_rows(scores: torch.Tensor, *, keep: int) -> torch.Tensor:
    """bool [..., K]: true at the `keep` largest of each last dimension, the first ones among equals."""
    check_scores(scores)
    order = scores.detach().argsort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order[..., :keep], True)


def masks_of(scores: Mapping[str, torch.Tensor], *, sparsity: float, scope: Scope) -> dict[str, torch.Tensor]:
    """A mask for each score. With scope Layer each has the sparsity; with Global all together have it.

    Global compares scores of different weights as they are, and may empty a layer: use it where scores have one meaning
    throughout, as gradients do."""
    if scope == "Layer":
        return {name: largest(score, keep=kept_count(score.numel(), sparsity=sparsity)) for name, score in scores.items()}
    if scope != "Global":
        raise CompressionError(f"scope {scope!r} is not known; use Global or Layer")
    together = torch.cat([score.detach().flatten() for score in scores.values()])
    mask = largest(together, keep=kept_count(together.numel(), sparsity=sparsity))
    parts = mask.split([score.numel() for score in scores.values()])
    return {name: part.view(score.shape) for (name, score), part in zip(scores.items(), parts, strict=True)}


def sparsity_of(masks: Mapping[str, torch.Tensor]) -> float:
    """The fraction that is dropped, over all masks."""
    return 1 - sum(int(mask.sum()) for mask in masks.values()) / max(1, sum(mask.numel() for mask in masks.values()))


def check_scores(scores: torch.Tensor) -> None:
    if bool(scores.isnan().any()):
        raise CompressionError("a score is NaN: the weights, the gradients or the calibration data hold NaN or infinity")
