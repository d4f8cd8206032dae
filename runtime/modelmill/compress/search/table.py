"""The table that the search chooses from: for each layer and kind what is stored, what it costs, and what it does to the loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from modelmill.compress import timing
from modelmill.compress.draft import Batch
from modelmill.compress.search import sensitivity
from modelmill.compress.search.cost import Cost, costs
from modelmill.compress.search.kinds import DENSE, Kind, kinds_of
from modelmill.compress.search.knapsack import Option
from modelmill.compress.weight import CompressedWeight
from modelmill.compress.weights import Weight
from modelmill.recipe.base import Recipe


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Entry:
    kind: Kind
    weight: Weight
    cost: Cost
    increase: float
    """Of the loss, predicted."""


Table = Mapping[str, Mapping[str, Entry]]
"""By the name of the weight and of the kind; dense is in each."""


def tabulate(module: nn.Module, names: Sequence[str], batches: Sequence[Batch], recipe: Recipe) -> Table:
    """Predicts on these batches, measures on the first row of them."""
    sensitive = sensitivity.measure(module, names, batches, recipe)
    weights = {name: module.get_parameter(name).detach() for name in names}
    kinds = {name: {kind.name: kind for kind in kinds_of(tuple(weight.shape))} for name, weight in weights.items()}
    encoded = {name: {key: kind.encode(weights[name], name=name) for key, kind in own.items()} for name, own in kinds.items()}
    measured = costs(module, encoded, batches[0][0][:1])
    return {
        name: {
            key: Entry(
                kind=kinds[name][key],
                weight=weight,
                cost=measured[name][key],
                increase=_increase(sensitive, name, weights[name], weight),
            )
            for key, weight in own.items()
        }
        for name, own in encoded.items()
    }


def _increase(sensitive: sensitivity.Sensitivity, name: str, dense: torch.Tensor, weight: Weight) -> float:
    if not isinstance(weight, CompressedWeight):
        return 0.0
    return sensitive.increase(name, weight.decode().to(dense.dtype) - dense) + sensitive.activations[name]


def options(table: Table, *, objective: str) -> dict[str, list[Option]]:
    """For the knapsack: of each layer dense, and the kinds that cost clearly less than all with less increase."""
    least = timing.NOISE if objective == "Latency" else 0.0
    found: dict[str, list[Option]] = {}
    for name, own in table.items():
        kept: list[Option] = []
        for key, entry in sorted(own.items(), key=lambda item: (item[0] != DENSE, item[1].increase)):
            cost = value(entry.cost, objective=objective)
            if not kept or cost < kept[-1].cost * (1 - least):
                kept.append(Option(kind=key, cost=cost, increase=entry.increase))
        found[name] = kept
    return found


def value(cost: Cost, *, objective: str) -> float:
    return cost.seconds if objective == "Latency" else cost.bytes


def total(table: Table, choice: Mapping[str, str], *, objective: str) -> float:
    """Of all layers."""
    return sum(value(table[name][kind].cost, objective=objective) for name, kind in choice.items())


def left_out(table: Table, *, objective: str, device: str) -> list[str]:
    """For the log: the kinds that cost as much as dense or more in some layers, with the ratios measured there."""
    ratios: dict[str, list[float]] = {}
    for own in table.values():
        dense = value(own[DENSE].cost, objective=objective)
        for key, entry in own.items():
            if key != DENSE and dense:
                ratios.setdefault(key, []).append(value(entry.cost, objective=objective) / dense)
    what = "time" if objective == "Latency" else "bytes"
    told = []
    for key, found in ratios.items():
        worse = sorted(ratio for ratio in found if ratio >= 1)
        if worse:
            told.append(
                f"search: {key} is left out in {len(worse)} of {len(found)} layers, where it takes {worse[0]:.2f} to "
                f"{worse[-1]:.2f} times dense's {what} on {device}"
            )
    return told
