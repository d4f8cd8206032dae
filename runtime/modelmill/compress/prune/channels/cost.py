"""Multiplications of a module: what each layer takes for one example, and how they fall when channels go.

Linear: K * N for each row. Convolution: h * w * C / groups * N for each pixel of its output. Norms, activations and products
of activations with each other are not counted, since no choice of channels is about them alone.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from modelmill.compress.prune.channels.groups import Group


def multiplications(module: nn.Module, run: Callable[[nn.Module], Any]) -> dict[str, int]:
    """Of each linear layer and convolution that `run` passes, by its path; for all rows of what `run` gives the module."""
    counts: dict[str, int] = {}

    def count(path: str) -> Callable[[nn.Module, Any, torch.Tensor], None]:
        def hook(layer: nn.Module, _: Any, output: torch.Tensor) -> None:
            weight: Any = layer.weight
            counts[path] = counts.get(path, 0) + output.numel() * weight[0].numel()

        return hook

    layers = [(path, layer) for path, layer in module.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    handles = [layer.register_forward_hook(count(path)) for path, layer in layers]
    try:
        run(module)
    finally:
        for handle in handles:
            handle.remove()
    return counts


def sizes_of(module: nn.Module, paths: Iterable[str]) -> dict[tuple[str, str], int]:
    """By path and side, as `Part` names them."""
    sizes: dict[tuple[str, str], int] = {}
    for path in paths:
        weight: Any = module.get_submodule(path).weight
        sizes |= {(path, "inputs"): weight.shape[1], (path, "outputs"): weight.shape[0], (path, "both"): weight.shape[0]}
    return sizes


@dataclass(kw_only=True)
class Ledger:
    """What the layers take while groups shrink on paper: the cost at the start times what is left of each side of a layer."""

    costs: Mapping[str, int]
    groups: Mapping[str, Group]
    """By their root."""
    sizes: Mapping[tuple[str, str], int]
    """Of each side of a layer that is in `costs`: how many inputs or outputs it has."""

    def __post_init__(self) -> None:
        # A side may belong to several groups (channels that are laid end to end): each takes its part away.
        self._left: dict[tuple[str, str], float] = {}

    def total(self) -> float:
        return sum(cost * self._share(path) for path, cost in self.costs.items())

    def saving(self, root: str, count: int) -> float:
        """What is saved when `count` more channels of a group go."""
        paths = {part.path for part in self.groups[root].parts if part.path in self.costs}
        before = sum(self.costs[path] * self._share(path) for path in paths)
        kept = dict(self._left)
        self.remove(root, count)
        after = sum(self.costs[path] * self._share(path) for path in paths)
        self._left = kept
        return before - after

    def remove(self, root: str, count: int) -> None:
        for part in self.groups[root].parts:
            if part.path in self.costs:
                key = (part.path, part.side)
                self._left[key] = self._left.get(key, 1.0) - count * len(part.of_channel[0]) / self.sizes[key]

    def _share(self, path: str) -> float:
        share = 1.0
        for side in ("inputs", "outputs", "both"):
            share *= self._left.get((path, side), 1.0)
        return share
