"""True evaluations: a choice of kinds as the whole model that would be served, on rows that the prediction has not seen.

The unit of a drop is that of `maxDrop` of a ModelService and of `tolerance` of a gate: for classes what accuracy loses
against that of the trained dense model; for other outputs y their relative error ||y - y_dense|| / ||y_dense||.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from modelmill.compress.apply import load_variant
from modelmill.compress.distill.soft import Kind as Answers
from modelmill.compress.draft import Batch
from modelmill.compress.errors import CompressionError
from modelmill.compress.search.found import Quality
from modelmill.compress.state import tensors_of
from modelmill.compress.weights import Plain, Weight, write_weights
from modelmill.recipe.base import Recipe


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trial:
    module: nn.Module
    """As it would be served."""
    bytes: int
    """Of the file."""
    quality: Quality


class Trials:
    """Measures modules beside a dense one; `folder` holds their files, which stay mapped."""

    def __init__(self, dense: nn.Module, *, batches: Sequence[Batch], recipe: Recipe, answers: Answers, folder: Path) -> None:
        self._batches, self._recipe, self._answers, self._folder = batches, recipe, answers, folder
        self._made = 0
        self._outputs = [_outputs(dense, inputs) for inputs, _ in batches]
        self.rows = sum(len(inputs) for inputs, _ in batches)
        if not self.rows:
            raise CompressionError("search: the training data have no rows to evaluate candidates on")
        self.dense = self.trial(dense, {})

    def trial(self, module: nn.Module, weights: Mapping[str, Weight]) -> Trial:
        """The module with these weights in the place of its own."""
        file = self._folder / f"{self._made}.safetensors"
        self._made += 1
        stored: dict[str, Weight] = {name: Plain(data=tensor) for name, tensor in tensors_of(module).items()}
        size = write_weights(file, stored | dict(weights))
        loaded = load_variant(copy.deepcopy(module), file)
        return Trial(module=loaded, bytes=size, quality=self._quality(loaded))

    def _quality(self, module: nn.Module) -> Quality:
        outputs = [_outputs(module, inputs) for inputs, _ in self._batches]
        losses = [
            float(self._recipe.loss(one, targets)) * len(targets)
            for one, (_, targets) in zip(outputs, self._batches, strict=True)
        ]
        loss = sum(losses) / self.rows
        if self._answers == "Values":
            return Quality(loss=loss, drop=_relative_error(outputs, self._outputs))
        targets = torch.cat([targets.flatten() for _, targets in self._batches])
        found, wanted = (torch.cat([one.argmax(dim=1) for one in parts]) for parts in (outputs, self._outputs))
        right, before, same = (int(equal.sum()) for equal in (found == targets, wanted == targets, found == wanted))
        # A difference of counts: one of shares would be rounded, and may miss a bound that it meets.
        return Quality(loss=loss, drop=(before - right) / self.rows, accuracy=right / self.rows, agreement=same / self.rows)


def _relative_error(outputs: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> float:
    wrong = sum(float((one - other).double().square().sum()) for one, other in zip(outputs, wanted, strict=True))
    whole = sum(float(other.double().square().sum()) for other in wanted)
    return (wrong / whole) ** 0.5 if whole else float(wrong > 0)


def _outputs(module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        outputs: torch.Tensor = module(inputs)
    return outputs
