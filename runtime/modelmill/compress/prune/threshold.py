"""Threshold pruning: a weight whose magnitude is at most the threshold becomes zero.

The zeros are stored like any other value, so pruning alone makes a file no smaller; what it buys comes with a codec
that stores zeros cheaply. Sparsity is reported, so that nobody has to guess.
"""

import torch


def prune(weight: torch.Tensor, *, threshold: float) -> torch.Tensor:
    return weight.detach().masked_fill(weight.detach().abs() <= threshold, 0.0)
