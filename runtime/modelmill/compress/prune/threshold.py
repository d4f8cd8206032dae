"""Threshold pruning: a weight whose magnitude is at most the threshold becomes zero.

    mask = |w| > t

The zeros are stored like any other value, so pruning alone makes a file no smaller; what it buys comes with a codec
that stores zeros cheaply. Sparsity is reported, so that nobody has to guess.
"""

import math

import torch

from modelmill.compress.errors import CompressionError


def mask(weight: torch.Tensor, *, threshold: float) -> torch.Tensor:
    """bool, the weight's shape, true where it is kept. CompressionError for a threshold that is not a number >= 0."""
    if not (math.isfinite(threshold) and threshold >= 0):
        raise CompressionError(f"threshold {threshold} must be a number >= 0")
    return weight.detach().abs() > threshold


def prune(weight: torch.Tensor, *, threshold: float) -> torch.Tensor:
    return weight.detach().masked_fill(weight.detach().abs() <= threshold, 0.0)
