"""An MLP that costs nothing: what is measured with it is the server."""

import torch
from torch import nn


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 64] to [N, 10]."""
        y: torch.Tensor = self.layers(x)
        return y
