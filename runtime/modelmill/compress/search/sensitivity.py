"""How much the loss grows when one layer is stored as one kind: predicted for all layers and kinds from one pass.

    increase = 1/2 * sum_i F_i * dw_i^2            dw = decoded weight - weight
    F_i = B * mean over chunks of (dL/dw_i)^2      L the recipe's mean loss over the B rows of a chunk

The second-order expansion of the loss, with the diagonal of the empirical Fisher information for its Hessian: at the end of
training gradients average to nothing, so B times the square of a chunk's mean gradient estimates the mean square of single
rows' ones. First-order terms are left out for the same reason, and layers' increases are added as if they were independent.
LeCun, Denker, Solla 1989, "Optimal Brain Damage"; the Fisher diagonal as in Theis et al. 2018, "Faster gaze prediction with
dense networks and Fisher pruning".

Kinds on a grid also round the layer's inputs to int8. That is measured in the same pass, on the rows' own gradients:

    increase = 1/2 * mean over rows of sum_j (dL_row/dx_j)^2 * dx_j^2      dx = int8 input - input
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from modelmill.compress.draft import Batch
from modelmill.compress.errors import CompressionError
from modelmill.compress.qat import FakeActivations
from modelmill.recipe.base import Recipe

CHUNK_ROWS = 8
"""Fewer rows take longer, and estimate better."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sensitivity:
    fisher: Mapping[str, torch.Tensor]
    """By the name of the weight, of its shape."""
    activations: Mapping[str, float]
    """Increase of the loss from int8 inputs of the layer that owns the weight."""

    def increase(self, name: str, change: torch.Tensor) -> float:
        """Of the loss, when `change` of the weight's shape is added to it."""
        return 0.5 * float((self.fisher[name] * change.square()).sum(dtype=torch.float64))


def measure(module: nn.Module, names: Sequence[str], batches: Sequence[Batch], recipe: Recipe) -> Sensitivity:
    """Of the weights of these names. The module is in evaluation, and left as it was but for `requires_grad` (off).

    Raises CompressionError where there are no rows, or gradients are not finite."""
    module.requires_grad_(False)
    weights = {name: module.get_parameter(name).requires_grad_(True) for name in names}
    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    rounding = dict.fromkeys(names, 0.0)
    chunks = rows = 0
    try:
        with _watching(module, rounding):
            for inputs, targets in _chunks(batches):
                # The sum over rows, so that what comes back to a row's activations is its own gradient. Not `autograd.grad`,
                # which would leave out the gradient of the first layer's inputs.
                (len(inputs) * recipe.loss(module(inputs), targets)).backward()
                for name, weight in weights.items():
                    if weight.grad is not None:
                        sums[name] += weight.grad.square() / len(inputs)
                        weight.grad = None
                chunks, rows = chunks + 1, rows + len(inputs)
    finally:
        module.requires_grad_(False)
    if not chunks:
        raise CompressionError("search: the training data have no rows to find the sensitivity of layers with")
    for name, total in sums.items():
        if not bool(total.isfinite().all()):
            raise CompressionError(f"search: gradients of {name!r} are not finite; train again with a lower lr")
    return Sensitivity(
        fisher={name: total / chunks for name, total in sums.items()},
        activations={name: 0.5 * total / rows for name, total in rounding.items()},
    )


def _chunks(batches: Sequence[Batch]) -> Iterator[Batch]:
    for inputs, targets in batches:
        yield from zip(inputs.split(CHUNK_ROWS), targets.split(CHUNK_ROWS), strict=True)


@contextmanager
def _watching(module: nn.Module, rounding: dict[str, float]) -> Iterator[None]:
    """Adds to `rounding`, by weight, the sum over rows of sum_j (dL_row/dx_j)^2 * dx_j^2."""
    layers = {name: module.get_submodule(name.rpartition(".")[0]) for name in rounding}
    hooks = [layer.register_forward_pre_hook(partial(_watch, name, rounding)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _watch(name: str, rounding: dict[str, float], layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    x, *others = inputs
    # The first layer's input has no gradient by itself.
    x = x if x.requires_grad else x.detach().requires_grad_(True)
    with torch.no_grad():
        change = FakeActivations(None)(layer, (x.detach(),))[0] - x.detach()

    def add(gradient: torch.Tensor) -> None:
        rounding[name] += float((gradient * change).square().sum())

    x.register_hook(add)
    return x, *others
