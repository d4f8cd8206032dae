"""Handwritten digits, 8x8 pixels: a small network that learns in seconds on a CPU."""

import io

import fsspec
import numpy
import torch
from torch import nn
from torch.utils.data import Dataset

from modelmill import Recipe, Signature, Tensor

SIZE = 8
CLASSES = 10


class Digits(Recipe):
    """Hyperparameters of its own: `width` of the hidden layers."""

    def model(self) -> nn.Module:
        width = int(self.hyperparameters.get("width", 256))
        return nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * (SIZE // 2) ** 2, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, CLASSES),
        )

    def signature(self) -> Signature:
        return Signature(
            inputs=(Tensor(name="image", datatype="FP32", shape=(-1, 1, SIZE, SIZE)),),
            outputs=(Tensor(name="scores", datatype="FP32", shape=(-1, CLASSES)),),
        )

    def dataset(self, uri: str, *, training: bool) -> "Images":
        return Images(uri, shifts=training)

    def scheduler(self, optimizer: torch.optim.Optimizer, *, total_steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=optimizer.param_groups[0]["lr"], total_steps=total_steps)


class Images(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Pixels 0..16 scaled to 0..1; for training each image is moved by up to one pixel."""

    def __init__(self, uri: str, *, shifts: bool) -> None:
        with fsspec.open(uri, "rb") as stream:
            arrays = numpy.load(io.BytesIO(stream.read()), allow_pickle=False)
        pixels = torch.from_numpy(arrays["x"]).float().div(16).unsqueeze(1)
        # A margin of empty pixels: an image is moved by cutting it out elsewhere.
        self.images = nn.functional.pad(pixels, (1, 1, 1, 1))
        self.labels = torch.from_numpy(arrays["y"]).long()
        self.shifts = shifts

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        top, left = divmod(int(torch.randint(9, ())), 3) if self.shifts else (1, 1)
        return self.images[index, :, top : top + SIZE, left : left + SIZE], self.labels[index]
