"""What a layer costs in each kind: bytes as they are stored, and seconds as measured on this machine.

The table is measured with the layers that serve (`modules.replace`), on the inputs that the model gives them for one row.
Layers of equal type, shapes and geometry are measured once. The sum over layers leaves out what is between them.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from modelmill.compress import modules, timing
from modelmill.compress.weights import Plain, Weight

TABLE_SECONDS = 10.0
"""CPU time for the whole table, shared by its rows; each takes three rounds whatever they take."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seen:
    """What comes into one layer while the model computes on one row."""

    example: torch.Tensor
    """Of its first call."""
    calls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    bytes: int
    seconds: float
    """Of all its calls for one row."""


def costs(module: nn.Module, encoded: Mapping[str, Mapping[str, Weight]], row: torch.Tensor) -> dict[str, dict[str, Cost]]:
    """By the name of the weight and of the kind. `row` is a batch of one; a layer that it never reaches takes no time."""
    layers = {name: module.get_submodule(name.rpartition(".")[0]) for name in encoded}
    seen = look(module, layers, row)
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, one in seen.items():
        groups.setdefault((_signature(layers[name]), one.example.shape, *encoded[name]), []).append(name)
    seconds: dict[str, dict[str, float]] = {name: dict.fromkeys(kinds, 0.0) for name, kinds in encoded.items()}
    for first, *others in groups.values():
        times = layer_seconds(
            layers[first], list(encoded[first].values()), seen[first].example, seconds=TABLE_SECONDS / len(groups)
        )
        for name in (first, *others):
            seconds[name] = {kind: one * seen[name].calls for kind, one in zip(encoded[name], times, strict=True)}
    return {
        name: {kind: Cost(bytes=stored_bytes(weight), seconds=seconds[name][kind]) for kind, weight in kinds.items()}
        for name, kinds in encoded.items()
    }


def layer_seconds(layer: nn.Module, weights: Sequence[Weight], example: torch.Tensor, *, seconds: float) -> list[float]:
    """Of the layer with each of these weights in turn, on this input."""
    calls: list[Callable[[], object]] = [partial(_with(layer, weight), example) for weight in weights]
    return timing.compare(calls, seconds=seconds)


def look(module: nn.Module, layers: Mapping[str, nn.Module], row: torch.Tensor) -> dict[str, Seen]:
    """What comes into these layers, by the same names; nothing of a layer that is not called."""
    seen: dict[str, Seen] = {}

    def note(name: str, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        calls = seen[name].calls + 1 if name in seen else 1
        seen[name] = Seen(example=seen[name].example if name in seen else inputs[0].detach().clone(), calls=calls)

    hooks = [layer.register_forward_pre_hook(partial(note, name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            module(row)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def stored_bytes(weight: Weight) -> int:
    """Of the weight's tensors in the file, without its header."""
    parts = [weight.data] if isinstance(weight, Plain) else weight.tensors().values()
    return sum(part.nbytes for part in parts)


def _with(layer: nn.Module, weight: Weight) -> nn.Module:
    """The layer as it is served with this weight; the given ones stay as they are."""
    if isinstance(weight, Plain):
        return layer
    prepared = copy.deepcopy(weight)
    prepared.prepare()
    return modules.replace(layer, prepared)


def _signature(layer: nn.Module) -> str:
    """Type, shapes and geometry, as torch tells them."""
    return f"{type(layer).__name__}({layer.extra_repr()})"
