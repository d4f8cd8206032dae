"""Compresses the weights of a module by a plan, and tells exactly what became of each.

Works on the state dict and never changes the module: what is not selected goes to the file as it was.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from modelmill.compress.codecs import bfloat16, uniform
from modelmill.compress.errors import CompressionError
from modelmill.compress.plan import Plan
from modelmill.compress.prune import threshold
from modelmill.compress.select import select
from modelmill.compress.weights import Weight, dense_weight


@dataclass(frozen=True, slots=True, kw_only=True)
class Compressed:
    weights: dict[str, Weight]
    changed: tuple[str, ...]
    """Names of the weights that the plan was applied to."""
    kept: dict[str, str]
    """Name of a weight that stayed dense though it has at least two dimensions -> why."""
    sparsity: float
    """Zeros among the values of the changed weights."""


def compress(module: nn.Module, plan: Plan) -> Compressed:
    state = tensors_of(module)
    made = Compressed(weights={name: dense_weight(tensor) for name, tensor in state.items()}, changed=(), kept={}, sparsity=0.0)
    if plan.thresholds or plan.codec == uniform.NAME:
        made = _layers(module, state, plan, untouched=made.weights)
    return _rounded(made) if plan.codec == bfloat16.NAME else made


def _layers(module: nn.Module, state: dict[str, torch.Tensor], plan: Plan, *, untouched: dict[str, Weight]) -> Compressed:
    """The weights of those layers that have a compressed form."""
    selection = select(module)
    if not selection.layers:
        raise CompressionError(f"the model has no weight that can be compressed: {_reasons(selection.kept)}")
    weights = untouched | {name: _apply(state[name], plan, name=name) for name in selection.layers}
    changed = tuple(sorted(selection.layers))
    zeros = sum(int((weights[name].data == 0).sum()) for name in changed)
    total = sum(weights[name].data.numel() for name in changed)
    return Compressed(weights=weights, changed=changed, kept=selection.kept, sparsity=zeros / max(1, total))


def _rounded(made: Compressed) -> Compressed:
    """Every tensor of floating point in bfloat16: a module computes in one precision."""
    floats = tuple(sorted(name for name, weight in made.weights.items() if weight.data.is_floating_point()))
    data = {name: bfloat16.encode(made.weights[name].data, name=name) for name in floats}
    weights = made.weights | {name: Weight(codec=bfloat16.NAME, data=data[name]) for name in floats}
    return replace(made, weights=weights, changed=floats, kept={})


def tensors_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """The module's state dict, which must hold tensors only."""
    state: dict[str, Any] = module.state_dict()
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise CompressionError(
                f"state {name!r}: a {type(value).__name__} cannot be stored without pickle; keep it in a buffer, or in the recipe"
            )
    return state


def _apply(tensor: torch.Tensor, plan: Plan, *, name: str) -> Weight:
    for value in plan.thresholds:
        tensor = threshold.prune(tensor, threshold=value)
    if plan.codec != uniform.NAME:
        return dense_weight(tensor)
    codes, scale = uniform.encode(tensor, name=name)
    return Weight(codec=uniform.NAME, data=codes, scale=scale)


def _reasons(kept: dict[str, str]) -> str:
    told = [f"{name}: {reason}" for name, reason in list(kept.items())[:3]]
    return "; ".join(told) or "it has no weight with two dimensions or more"
