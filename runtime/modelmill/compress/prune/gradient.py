"""Importance by gradient: how much the loss changes, to first order, when a weight becomes zero.

    score = mean over batches of |w * dL/dw|

The first-order Taylor expansion of L(w) - L(0) around w. A magnitude says nothing about the loss; this does, so scores of
different layers can be compared (scope Global).
Source: Molchanov, Mallya, Tyree, Frosio, Kautz 2019, "Importance Estimation for Neural Network Pruning", which squares where
this takes the absolute value: the same order within a batch, and no square of a small number.
"""

from collections.abc import Callable, Iterable, Mapping

import torch

from modelmill.compress.errors import CompressionError
from modelmill.compress.prune.masks import check_scores


def scores(
    weights: Mapping[str, torch.Tensor], losses: Iterable[torch.Tensor | Callable[[], torch.Tensor]]
) -> dict[str, torch.Tensor]:
    """A score for each weight, of its shape, >= 0. The weights must be leaves that require gradients, in use by the losses.

    `losses` are scalars with their graph, one for each batch (a generator keeps one graph at a time), or functions that
    give them. A weight that a loss does not depend on scores 0 there. `.grad` of the weights is not touched.
    Raises CompressionError without any loss, and where a gradient is NaN."""
    names, leaves = list(weights), list(weights.values())
    sums = [torch.zeros_like(leaf) for leaf in leaves]
    count = 0
    for loss in losses:
        gradients = torch.autograd.grad(loss() if callable(loss) else loss, leaves, allow_unused=True)
        for total, leaf, gradient in zip(sums, leaves, gradients, strict=True):
            if gradient is not None:
                total += (leaf.detach() * gradient).abs()
        count += 1
    if count == 0:
        raise CompressionError("importance by gradient needs at least one batch of training data")
    for total in sums:
        check_scores(total)
    return {name: total / count for name, total in zip(names, sums, strict=True)}
