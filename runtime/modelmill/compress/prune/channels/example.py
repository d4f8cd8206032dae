"""What a module is tried on: an example of its inputs, and when two outputs of it are the same."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

Run = Callable[[nn.Module], tuple[torch.Tensor, ...]]
"""Gives a module the example, and returns its outputs."""
TOLERANCE = 1e-4
"""Of the largest output: what rounding may change when channels of zeros are left out."""


def runner(example: Any) -> tuple[Any, Run]:
    """The example as the graph takes it, and what gives it to a module."""

    def run(module: nn.Module) -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            if isinstance(example, Mapping):
                return _tensors(module(**example))
            return _tensors(module(*example) if isinstance(example, tuple) else module(example))

    return dict(example) if isinstance(example, Mapping) else example, run


def _tensors(outputs: Any) -> tuple[torch.Tensor, ...]:
    if isinstance(outputs, torch.Tensor):
        return (outputs,)
    return tuple(
        found for output in (outputs.values() if isinstance(outputs, Mapping) else outputs) for found in _tensors(output)
    )


def difference(got: tuple[torch.Tensor, ...], wanted: tuple[torch.Tensor, ...]) -> str | None:
    """What the outputs of a module without some channels have against those of one with zeros in their place; None: nothing."""
    for left, right in zip(got, wanted, strict=True):
        if left.shape != right.shape:
            return f"without some of its channels an output has shape {list(left.shape)} instead of {list(right.shape)}"
        # Not "above": a NaN must not pass.
        if left.is_floating_point() and not float((left - right).abs().max()) <= TOLERANCE * float(right.abs().max()):
            return "the model computes something else without its channels than with zeros in their place"
    return None
