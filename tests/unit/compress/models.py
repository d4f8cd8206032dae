"""Small models for the tests of compression."""

import torch
from torch import nn


def dense_net(*, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 33), nn.ReLU(), nn.Linear(33, 10))


def conv_net(*, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3, stride=2, padding="valid"),
        nn.Conv2d(24, 24, 3, groups=24),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 10),
    )


class Shared(nn.Module):
    """One weight under two layers, as language models tie their embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.own = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.two.weight = self.one.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.own(self.two(self.one(x)))
        return result
