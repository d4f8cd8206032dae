"""Channels that must go together, from Torch-Pruning's dependency graph, as far as their removal is proven to be exact.

Removing an output channel of one layer removes an input of all that read it, and the channel of every layer that is
added to it. The graph of this is Fang, Ma, Song, Mi, Wang 2023, "DepGraph: Towards Any Structural Pruning"; it is traced
from one forward pass and knows common operations only. So every group is tried before it is used, on a copy:

    module without some channels  =  module whose readers have zeros at the inputs from these channels

up to rounding. Groups that fail are refused with the reason: outputs of the model, channels that are padded or reshaped in ways
that the graph mistakes (a shortcut that appends channels of zeros), sums that a layer norm takes over the width.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning
from torch import nn

from modelmill.compress.prune.channels.example import Run, difference

_KNOWN = (nn.Linear, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    root: str
    """Path of the layer whose output channels count."""
    channels: int
    parts: "tuple[Part, ...]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    path: str
    side: str
    """inputs, outputs, or both (a depthwise convolution, a norm)"""
    of_channel: tuple[tuple[int, ...], ...]
    """For each channel of the root, its indices on this side of this layer."""


class Graph:
    """The groups of a module, and the removal of their channels. `keep`: paths of layers whose outputs stay."""

    def __init__(self, module: nn.Module, example: Any, *, keep: Sequence[str] = ()) -> None:
        self.module = module
        self._paths = {layer: path for path, layer in module.named_modules()}
        self._graph = torch_pruning.DependencyGraph()
        with torch.enable_grad():
            self._graph.build_dependency(module, example_inputs=example, verbose=False)
        self._kept = [module.get_submodule(path) for path in keep]

    def groups(self) -> list[Group | str]:
        """Every group; the reason instead, beginning with its root, where the graph itself shows that it cannot be pruned."""
        return [self._group(found) for found in self._graph.get_all_groups(ignored_layers=self._kept)]

    def group(self, root: str) -> Group | str:
        """The group of this layer's outputs, with the sizes of now."""
        layer = self.module.get_submodule(root)
        pruner = self._graph.get_pruner_of_module(layer)
        channels = list(range(pruner.get_out_channels(layer)))
        return self._group(self._graph.get_pruning_group(layer, pruner.prune_out_channels, channels))

    def remove(self, root: str, channels: Sequence[int]) -> None:
        """Removes these output channels of the root, and all that goes with them."""
        layer = self.module.get_submodule(root)
        pruner = self._graph.get_pruner_of_module(layer)
        self._graph.get_pruning_group(layer, pruner.prune_out_channels, sorted(channels)).prune(record_history=False)

    def _group(self, found: Any) -> Group | str:
        root = self._paths[found[0].dep.target.module]
        parts: list[Part] = []
        for item in found:
            layer = item.dep.target.module
            if isinstance(layer, nn.Parameter):
                return f"{root}: a parameter outside of any layer goes with its channels"
            if not any(True for _ in layer.parameters()) and not isinstance(layer, _KNOWN):
                continue  # an operation, such as an activation
            if reason := _unknown(layer):
                return f"{root}: its channels reach {reason}"
            parts.append(self._part(layer, item))
        if not any(part.side == "inputs" for part in parts):
            return f"{root}: no layer reads its channels, which are outputs of the model"
        return Group(root=root, channels=len(found[0].idxs), parts=tuple(parts))

    def _part(self, layer: nn.Module, item: Any) -> Part:
        places: dict[int, list[int]] = {}
        for index, channel in zip(item.idxs, item.root_idxs, strict=True):
            places.setdefault(channel, []).append(index)
        of_channel = tuple(tuple(places[channel]) for channel in sorted(places))
        reads = self._graph.is_in_channel_pruning_fn(item.dep.handler)
        single = isinstance(layer, nn.Conv2d) and layer.groups > 1
        both = single or not isinstance(layer, nn.Linear | nn.Conv2d)
        return Part(path=self._paths[layer], side="both" if both else "inputs" if reads else "outputs", of_channel=of_channel)


def _unknown(layer: nn.Module) -> str | None:
    if isinstance(layer, nn.LayerNorm):
        return "a LayerNorm, which computes over all of them together"
    if type(layer) not in _KNOWN:
        return f"a {type(layer).__name__}, which cannot be resized"
    if isinstance(layer, nn.Conv2d) and layer.groups > 1 and not layer.groups == layer.in_channels == layer.out_channels:
        return f"a convolution with {layer.groups} groups, which would become uneven"
    return None


def usable(
    module: nn.Module, example: Any, run: Run, *, keep: Sequence[str], steps: Callable[[int], int]
) -> tuple[list[Group], dict[str, str]]:
    """The groups of the module that can lose channels, and why the others cannot, by their root.

    `steps` tells how many go at a time where there are this many; 0 where none should."""
    found = Graph(module, example, keep=keep).groups()
    refused = dict(group.split(": ", 1) for group in found if isinstance(group, str))
    trial: Graph | None = None
    good: list[Group] = []
    for group in found:
        if isinstance(group, str):
            continue
        if not 0 < (count := steps(group.channels)) < group.channels:
            refused[group.root] = f"has only {group.channels} channels"
            continue
        if trial is None:
            trial = Graph(copy.deepcopy(module), example, keep=keep)
        if reason := _failure(trial, group, run, count=count):
            refused[group.root] = reason
            trial = None  # what the failure left is of no use
        else:
            good.append(group)
    return good, refused


def _failure(trial: Graph, group: Group, run: Run, *, count: int) -> str | None:
    """Removes channels from the trial; why that was not exact, or None."""
    now = trial.group(group.root)
    if isinstance(now, str):
        return now
    masked = copy.deepcopy(trial.module)
    channels = range(0, now.channels, max(1, now.channels // count))[:count]
    try:
        with torch.no_grad():
            for part in now.parts:
                if part.side == "inputs":
                    weight: Any = masked.get_submodule(part.path).weight
                    # The graph may name more channels than there are, behind a shortcut that appends channels of zeros.
                    weight[:, [index for channel in channels for index in part.of_channel[channel]]] = 0
        trial.remove(group.root, channels)
        got = run(trial.module)
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        return (
            f"the model cannot compute without some of its channels: {str(error).splitlines()[0] if str(error) else 'no reason'}"
        )
    return difference(got, run(masked))
