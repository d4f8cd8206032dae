"""Recipes for the tests of whole runs: everything random that training can hold, and accidents on request."""

import os
import random
import signal
from pathlib import Path

import numpy
import torch
from torch import nn
from torch.utils.data import Dataset

from modelmill import Recipe, Signature, Tensor


class Rows(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    def __init__(self, count: int, *, noise: bool) -> None:
        generator = torch.Generator().manual_seed(5)
        self.inputs = torch.randn(count, 6, generator=generator)
        self.targets = (self.inputs.sum(dim=1) > 0).long()
        self.noise = noise

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        moved = self.inputs[index]
        if self.noise:
            moved = moved + 0.1 * torch.randn(6) + 0.1 * random.random() + 0.1 * float(numpy.random.rand())
        return moved, self.targets[index]


class Plain(Recipe):
    """Nothing random but the initial weights."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2))

    def signature(self) -> Signature:
        return Signature(inputs=(Tensor(name="x", shape=(-1, 6)),), outputs=(Tensor(name="y", shape=(-1, 2)),))

    def dataset(self, uri: str, *, training: bool) -> Rows:
        return Rows(int(self.hyperparameters["rows"]), noise=False)


class Noisy(Plain):
    """Augmentation, dropout, batch norm, a schedule; rank and step of an accident come from the environment."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2))

    def dataset(self, uri: str, *, training: bool) -> Rows:
        return Rows(int(self.hyperparameters["rows"]), noise=training)

    def scheduler(self, optimizer: torch.optim.Optimizer, *, total_steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=total_steps)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        self.losses = getattr(self, "losses", 0) + 1
        accident = os.environ.get("ACCIDENT", "")
        if accident == f"kill rank {os.environ['RANK']}" and self.losses == 25:
            os.kill(os.getpid(), signal.SIGKILL)
        if accident == f"end rank {os.environ['RANK']}" and self.losses == 25:
            os.kill(os.getpid(), signal.SIGTERM)
        if accident == "explode" and self.losses == 3:
            return super().loss(outputs, targets) * float("nan")
        return super().loss(outputs, targets)


class Warm(Plain):
    """Begins from weights that are all the same, and learns nothing."""

    def initialize(self, module: nn.Module) -> None:
        for parameter in module.parameters():
            nn.init.constant_(parameter, float(self.hyperparameters["begin"]))


class Broken(Plain):
    """Its signature promises another shape than the model returns."""

    def model(self) -> nn.Module:
        return nn.Linear(6, 3)


class Hungry(Plain):
    """Wants data that is not there."""

    def dataset(self, uri: str, *, training: bool) -> Rows:
        Path(uri.removeprefix("file://")).read_bytes()
        return super().dataset(uri, training=training)
