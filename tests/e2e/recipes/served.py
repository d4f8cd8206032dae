"""The digits network for tests of serving: as slow as a test wants, and it hangs on an image brighter than any.

Hyperparameters: `pause`, seconds in each forward pass.
"""

import time

import torch
from recipe import Digits  # type: ignore[import-not-found]  # beside this file
from torch import nn

TOO_BRIGHT = 1000.0


class Entrance(nn.Module):
    """Holds up what passes."""

    def __init__(self, pause: float) -> None:
        super().__init__()
        self.pause = pause

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        time.sleep(3600 if float(images.max()) > TOO_BRIGHT else self.pause)
        return images


class Served(Digits):
    def model(self) -> nn.Module:
        return nn.Sequential(Entrance(float(self.hyperparameters.get("pause", 0))), *super().model())
