"""Small problems that train in a fraction of a second, for the tests of training and distillation."""

from collections.abc import Iterable
from typing import cast

import torch
from torch import nn

from modelmill.compress.draft import Batch, Context
from modelmill.compress.weights import Plain, Weight
from modelmill.recipe.base import Recipe

CLASSES = 4


class Rows:
    """Material from tensors: a seeded order for each epoch."""

    def __init__(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        self.inputs, self.targets = inputs, targets

    def batches(self, *, epoch: int, batch_size: int) -> Iterable[Batch]:
        order = torch.randperm(len(self.inputs), generator=torch.Generator().manual_seed(epoch))
        for numbers in order.split(batch_size):
            yield self.inputs[numbers], self.targets[numbers]

    def calibration(self, *, rows: int) -> list[Batch]:
        return list(zip(self.inputs[:rows].split(32), self.targets[:rows].split(32), strict=True))

    def rows(self) -> int:
        return len(self.inputs)


class Task(Recipe):
    def __init__(self) -> None:
        super().__init__({})


class Untaught(Task):
    """A recipe whose targets nobody may look at."""

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the targets were used")


def blobs(*, rows: int = 512, width: int = 8, seed: int = 0) -> Rows:
    """Points around one centre a class."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(CLASSES, (rows,), generator=generator)
    centres = torch.randn(CLASSES, width, generator=torch.Generator().manual_seed(99))
    return Rows(centres[targets] + 0.6 * torch.randn(rows, width, generator=generator), targets)


def mlp(*, width: int = 8, hidden: int = 16, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(width, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, CLASSES),
    )


def context(
    material: Rows, *, teacher: nn.Module | None = None, recipe: Recipe | None = None, said: list[str] | None = None
) -> Context:
    lines = said if said is not None else cast(list[str], [])
    return Context(recipe=recipe or Task(), material=material, teacher=(teacher or mlp()).eval(), seed=1, say=lines.append)


def dense_of(weight: Weight) -> torch.Tensor:
    return weight.data if isinstance(weight, Plain) else weight.decode()


def right(module: nn.Module, material: Rows) -> float:
    """The share of rows whose class the module finds."""
    with torch.no_grad():
        return float((module.eval()(material.inputs).argmax(dim=1) == material.targets).float().mean())
