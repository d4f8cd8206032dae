"""Structured pruning: output channels are really removed, with all that reads them, so the model is smaller and faster as it is.

Groups of channels that must go together come from Torch-Pruning's dependency graph (`channels.groups`), their importance
from weights or gradients (`channels.importance`). Two ways to say how much:

    ratio: each group loses this fraction of its channels
    macs:  multiplications before / after; channels go where importance / multiplications saved is least, step by step

Kept channels come in multiples of `round_to`, because kernels compute on whole tiles; a group with no more channels than
that may lose half of them. The weights are those of the kept channels, nothing is trained here: fine-tune afterwards.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from modelmill.compress.errors import CompressionError
from modelmill.compress.prune.channels import importance as measures
from modelmill.compress.prune.channels.cost import Ledger, multiplications, sizes_of
from modelmill.compress.prune.channels.example import runner
from modelmill.compress.prune.channels.groups import Graph, usable
from modelmill.compress.prune.channels.plan import greedy, rounded, step_of
from modelmill.compress.structure import Edit, Resize, apply_edits

Importance = Literal["L2", "Taylor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    module: nn.Module
    """A new one, to be trained; the module that was given is as it was."""
    edits: tuple[Edit, ...]
    macs_before: int
    """Multiplications of linear layers and convolutions, for the example."""
    macs_after: int
    channels: dict[str, tuple[int, int]]
    """Path of a layer -> how many outputs it had and has, for each group by its root."""
    refused: dict[str, str]
    """Root of a group that was left whole -> why."""


def prune_channels(
    module: nn.Module,
    example: Any,
    *,
    ratio: float | None = None,
    macs: float | None = None,
    importance: Importance | measures.Scores = "L2",
    losses: Iterable[torch.Tensor | Callable[[], torch.Tensor]] = (),
    round_to: int = 8,
    keep: Sequence[str] = (),
) -> Pruned:
    """The module with fewer channels. `example` is what its forward takes: a tensor, or a tuple or dict of them.

    `losses`, one for each batch and of `module` while it evaluates, are needed for importance Taylor. `keep` names layers
    whose outputs stay as they are. Raises CompressionError for numbers out of range, where no group can lose channels, and
    where `macs` cannot be reached (with what can)."""
    _check(module, ratio=ratio, macs=macs, round_to=round_to, keep=keep)
    # The graph is traced from gradients.
    made = copy.deepcopy(module).eval().requires_grad_(True)
    graph_of, run = runner(example)
    groups, refused = usable(made, graph_of, run, keep=keep, steps=lambda channels: step_of(channels, round_to))
    if not groups:
        reasons = "; ".join(f"{root}: {reason}" for root, reason in list(refused.items())[:3])
        raise CompressionError(f"no layer can lose channels: {reasons or 'there are none'}")
    scores = _scores(module, importance, losses)
    ranked = {group.root: scores(group).sort(descending=True, stable=True) for group in groups}
    costs = multiplications(made, run)
    if ratio is not None:
        left = {group.root: rounded(group.channels, ratio=ratio, round_to=round_to) for group in groups}
    else:
        ledger = Ledger(costs=costs, groups={group.root: group for group in groups}, sizes=sizes_of(made, costs))
        left = greedy(ledger, {root: found.values for root, found in ranked.items()}, macs=macs or 1.0, round_to=round_to)
    graph = Graph(made, graph_of, keep=keep)
    for group in groups:
        if left[group.root] < group.channels:
            graph.remove(group.root, ranked[group.root].indices[left[group.root] :].tolist())
    edits = resizes(module, made)
    prove(module, made, edits)
    after = sum(multiplications(made, run).values())
    made.train(module.training)
    return Pruned(
        module=made, edits=edits, macs_before=sum(costs.values()), macs_after=after,
        channels={group.root: (group.channels, left[group.root]) for group in groups}, refused=refused,
    )  # fmt: skip


def resizes(before: nn.Module, after: nn.Module) -> tuple[Edit, ...]:
    """The edits that give a module like `before` the sizes of `after`."""
    edits: list[Edit] = []
    for path, layer in after.named_modules():
        new, old = _sizes(layer), _sizes(before.get_submodule(path))
        if new != old:
            inputs, outputs = (None if left == right else left for left, right in zip(new, old, strict=True))
            edits.append(Resize(path=path, inputs=inputs, outputs=outputs))
    return tuple(edits)


def _sizes(layer: nn.Module) -> tuple[int | None, int | None]:
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if isinstance(layer, nn.Conv2d):
        return layer.in_channels, layer.out_channels
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
        return None, layer.num_features
    return None, None


def _scores(
    module: nn.Module, importance: Importance | measures.Scores, losses: Iterable[torch.Tensor | Callable[[], torch.Tensor]]
) -> measures.Scores:
    if callable(importance):
        return importance
    if importance == "L2":
        return measures.by_norm(module)
    if importance != "Taylor":
        raise CompressionError(f"importance {importance!r} is not known; use L2 or Taylor")
    return measures.by_taylor(module, losses)


def _check(module: nn.Module, *, ratio: float | None, macs: float | None, round_to: int, keep: Sequence[str]) -> None:
    if (ratio is None) == (macs is None):
        raise CompressionError("structured pruning: give a ratio or macs, and not both")
    if ratio is not None and not 0 < ratio < 1:
        raise CompressionError(f"structured pruning: ratio {ratio} must be above 0 and below 1")
    if macs is not None and not macs > 1:
        raise CompressionError(f"structured pruning: macs {macs} must be above 1: multiplications before / after")
    if round_to < 1:
        raise CompressionError(f"structured pruning: round_to {round_to} must be 1 or more")
    known = {path for path, _ in module.named_modules()}
    if unknown := [path for path in keep if path not in known]:
        raise CompressionError(f"structured pruning: keep {unknown[0]!r}: the model has no such layer")


def prove(before: nn.Module, after: nn.Module, edits: Sequence[Edit]) -> None:
    """Checks that the edits alone give a fresh module these shapes, as the loader will need."""
    fresh = apply_edits(copy.deepcopy(before), edits)
    wanted = {name: tensor.shape for name, tensor in after.state_dict().items()}
    found = {name: tensor.shape for name, tensor in fresh.state_dict().items()}
    if wrong := [name for name in wanted if found.get(name) != wanted[name]]:
        raise CompressionError(f"structured pruning: {wrong[0]!r} has {list(wanted[wrong[0]])}, which no edit of structure makes")
