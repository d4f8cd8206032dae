"""CIFAR-10 with ResNet-20 (He et al. 2015, section 4.2), from published weights: parquet of JPEG images from any URI."""

import io

import fsspec
import numpy
import pyarrow.parquet
import torch
from PIL import Image
from safetensors.torch import load
from torch import nn
from torch.utils.data import Dataset

from modelmill import Recipe, Signature, Tensor

SIZE = 32
MARGIN = 4
CLASSES = 10
# Of the images that the published weights were trained on.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Cifar10(Recipe):
    """Hyperparameters of its own: `init`, the URI of weights to begin from; `blocks` in each of the three layers (3)."""

    def model(self) -> nn.Module:
        return ResNet(int(self.hyperparameters.get("blocks", 3)))

    def initialize(self, module: nn.Module) -> None:
        if uri := self.hyperparameters.get("init"):
            with fsspec.open(uri, "rb") as stream:
                module.load_state_dict(load(stream.read()))

    def signature(self) -> Signature:
        return Signature(
            inputs=(Tensor(name="image", datatype="FP32", shape=(-1, 3, SIZE, SIZE)),),
            outputs=(Tensor(name="scores", datatype="FP32", shape=(-1, CLASSES)),),
        )

    def dataset(self, uri: str, *, training: bool) -> "Images":
        return Images(uri, augment=training)

    def scheduler(self, optimizer: torch.optim.Optimizer, *, total_steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=optimizer.param_groups[0]["lr"], total_steps=total_steps)


class Images(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Columns `image` (JPEG bytes) and `label`; held as they are, decoded when asked for. Pixels from 0 to 1."""

    def __init__(self, uri: str, *, augment: bool) -> None:
        with fsspec.open(uri, "rb") as stream:
            table = pyarrow.parquet.read_table(stream, columns=["image", "label"])
        self.images = table["image"]
        self.labels = torch.tensor(table["label"].to_numpy())
        self.augment = augment

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = Image.open(io.BytesIO(self.images[index].as_py())).convert("RGB")
        pixels = torch.from_numpy(numpy.array(image)).permute(2, 0, 1).float().div(255)
        return _moved(pixels) if self.augment else pixels, self.labels[index]


def _moved(pixels: torch.Tensor) -> torch.Tensor:
    """Flipped or not, and moved by up to four pixels."""
    if torch.rand(()) < 0.5:
        pixels = pixels.flip(2)
    wide = nn.functional.pad(pixels, (MARGIN, MARGIN, MARGIN, MARGIN))
    top, left = (int(torch.randint(2 * MARGIN + 1, ())) for _ in range(2))
    return wide[:, top : top + SIZE, left : left + SIZE]


class Block(nn.Module):
    """Two convolutions and a shortcut without parameters (option A): every second pixel, zeros as the new channels."""

    def __init__(self, channels: int, *, wanted: int) -> None:
        super().__init__()
        self.widens = wanted != channels
        self.conv1 = nn.Conv2d(channels, wanted, 3, stride=2 if self.widens else 1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(wanted)
        self.conv2 = nn.Conv2d(wanted, wanted, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(wanted)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(nn.functional.relu(self.bn1(self.conv1(x)))))
        if self.widens:
            # Half of the new channels before the old ones, half behind.
            more = (y.shape[1] - x.shape[1]) // 2
            x = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, more, more))
        return nn.functional.relu(y + x)


class ResNet(nn.Module):
    """The names of its weights are those of the published ones. Takes pixels from 0 to 1 and normalises them itself."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(Block(16, wanted=16) for _ in range(blocks)))
        self.layer2 = nn.Sequential(*(Block(32 if i else 16, wanted=32) for i in range(blocks)))
        self.layer3 = nn.Sequential(*(Block(64 if i else 32, wanted=64) for i in range(blocks)))
        self.linear = nn.Linear(64, CLASSES)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        mean, std = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        x = nn.functional.relu(self.bn1(self.conv1((pixels - mean) / std)))
        x = self.layer3(self.layer2(self.layer1(x)))
        scores: torch.Tensor = self.linear(x.mean(dim=(2, 3)))
        return scores
