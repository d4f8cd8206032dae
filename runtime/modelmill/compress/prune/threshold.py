"""Threshold pruning: a weight whose magnitude is at most the threshold becomes zero.

    mask = |w| > t

Where enough weights are zero, the file leaves them out (`codecs.sparse`). Sparsity is reported, so that nobody has to guess.
"""

import math

import torch

from modelmill.compress.errors import CompressionError


def mask(weight: torch.Tensor, *, threshold: float) -> torch.Tensor:
    """bool, the weight's shape, true where it is kept. CompressionError for a threshold that is not a number >= 0."""
    if not (math.isfinite(threshold) and threshold >= 0):
        raise CompressionError(f"threshold {threshold} must be a number >= 0")
    return weight.detach().abs() > threshold
