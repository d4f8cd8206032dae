"""The digits recipe at a pace that a test can interrupt, and with mistakes on request: what it learns is the same.

Hyperparameters: `pause`, seconds before each step; `hog`, MiB to allocate.
"""

import time

import torch
from recipe import Digits  # type: ignore[import-not-found]  # beside this file in the ConfigMap


class Paced(Digits):
    def model(self) -> torch.nn.Module:
        self.hogged = torch.ones(int(self.hyperparameters.get("hog", 0)) << 20, dtype=torch.uint8)
        module: torch.nn.Module = super().model()
        return module

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if pause := float(self.hyperparameters.get("pause", 0)):
            time.sleep(pause)
            print("step", flush=True)
        loss: torch.Tensor = super().loss(outputs, targets)
        return loss
