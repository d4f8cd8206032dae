"""The models that are compared: CIFAR ResNets by depth and the MiniLM encoder, from published weights, in float32."""

import math
import os
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from benchmarks.serving.models.encoder import Encoder, from_bert
from benchmarks.serving.venvs import encoder_weights
from examples.cifar10.recipe import Block, ResNet

BLOCKS = {"resnet20": 3, "resnet56": 9}
LAYERS = ("layer1", "layer2", "layer3")
BATCH_NORMS = (("conv1", "bn1"), ("conv2", "bn2"))


class Network(ResNet):
    """The example's ResNet on images that are normalised already [N, 3, 32, 32]; its answers are scores [N, 10]."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = nn.functional.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        scores: torch.Tensor = self.linear(x.mean(dim=(2, 3)))
        return scores


def data_folder() -> Path:
    """Where MODELMILL_DATA, or the folder beside the checkout, has data and weights; exits with words when there is none."""
    folder = Path(os.environ.get("MODELMILL_DATA", "../shared/data"))
    if not (folder / "cifar10/test.parquet").exists():
        raise SystemExit(f"MODELMILL_DATA: {folder} has no cifar10/test.parquet; set it to the folder with data and weights")
    return folder


def network(name: str) -> nn.Module:
    """`resnet20` or `resnet56` with batch norms, as trained on the JPEG copies of the images."""
    module = Network(BLOCKS[name])
    module.load_state_dict(load_file(data_folder() / "models" / f"{name}-cifar10-jpeg.safetensors"))
    return module.eval().requires_grad_(False)


def encoder() -> nn.Module:
    module = Encoder()
    module.load_state_dict(from_bert(load_file(encoder_weights())))
    return module.eval().requires_grad_(False)


def folded(module: nn.Module) -> nn.Module:
    """The network with every batch norm folded into the convolution before it (Jacob et al. 2018, 3.2); changes the module."""
    if isinstance(module, Network):
        _fold(module, *BATCH_NORMS[0])
        blocks = [block for layer in LAYERS for block in getattr(module, layer)]
        for block in blocks:
            assert isinstance(block, Block)
            for names in BATCH_NORMS:
                _fold(block, *names)
    return module.requires_grad_(False)


def _fold(owner: nn.Module, conv: str, norm: str) -> None:
    setattr(owner, conv, fuse_conv_bn_eval(getattr(owner, conv), getattr(owner, norm)))
    setattr(owner, norm, nn.Identity())


def multiplications(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> int:
    """Products of weights and activations in one call (MACs), by the shapes of the weights: zeros in them count."""
    total = 0

    def count(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        total += output.numel() * math.prod(_shape(layer)[1:])

    hooks = [layer.register_forward_hook(count) for layer in module.modules() if _multiplies(layer)]
    try:
        with torch.inference_mode():
            module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return total


def _multiplies(layer: nn.Module) -> bool:
    return len(_shape(layer)) > 1 and not isinstance(layer, nn.Embedding)


def _shape(layer: nn.Module) -> tuple[int, ...]:
    """Of its weight, () without one; compressed weights tell the shape of the dense one."""
    shape: tuple[int, ...] = getattr(getattr(layer, "weight", None), "shape", ())
    return shape
