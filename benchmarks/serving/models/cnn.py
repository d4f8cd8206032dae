"""ResNet-18 (He et al. 2015) for 3x64x64 images and 1000 classes."""

import torch
from torch import nn


class Block(nn.Module):
    """Two convolutions and a shortcut: the identity, or 1x1 where the shape changes."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        z: torch.Tensor = self.relu(self.bn2(self.conv2(y)) + self.shortcut(x))
        return z


class ResNet18(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        stages = [Block(64, 64, stride=1), Block(64, 64, stride=1)]
        for inputs, outputs in ((64, 128), (128, 256), (256, 512)):
            stages += [Block(inputs, outputs, stride=2), Block(outputs, outputs, stride=1)]
        self.blocks = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(512, 1000)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """[N, 3, 64, 64] to logits [N, 1000]."""
        y: torch.Tensor = self.linear(self.pool(self.blocks(self.stem(image))).flatten(1))
        return y


def random_weights() -> ResNet18:
    """Seeded; statistics of batch norm are not the trivial ones, so that folding them wrongly would show."""
    torch.manual_seed(0)
    module = ResNet18().eval()
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
        elif isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight, layer.running_var):
                assert tensor is not None
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (layer.bias, layer.running_mean):
                assert tensor is not None
                nn.init.normal_(tensor, std=0.1)
    return module
