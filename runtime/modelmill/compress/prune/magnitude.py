"""Magnitude pruning to a target sparsity: the smallest |w| become zero.

Source: Han, Pool, Tran, Dally 2015, "Learning both Weights and Connections for Efficient Neural Networks".
"""

from collections.abc import Mapping

import torch

from modelmill.compress.prune.masks import Scope, kept_count, largest, masks_of


def mask(weight: torch.Tensor, *, sparsity: float) -> torch.Tensor:
    """bool, the weight's shape: the largest |w| are kept, exactly n - round(sparsity * n) of n."""
    return largest(weight.detach().abs(), keep=kept_count(weight.numel(), sparsity=sparsity))


def masks(weights: Mapping[str, torch.Tensor], *, sparsity: float, scope: Scope = "Layer") -> dict[str, torch.Tensor]:
    """A mask for each weight; with scope Global, |w| are compared over all of them."""
    return masks_of({name: weight.detach().abs() for name, weight in weights.items()}, sparsity=sparsity, scope=scope)
