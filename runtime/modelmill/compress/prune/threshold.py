"""Threshold pruning: a weight whose magnitude is at most the threshold becomes zero."""

import torch


def keep(weight: torch.Tensor, *, threshold: float) -> torch.Tensor:
    """bool, the weight's shape: |w| > threshold."""
    return weight.detach().abs() > threshold
