"""What is done to convolutions in place, to be served: channels-last. Says how many it changed."""

import torch
from torch import nn


def turn(module: nn.Module) -> int:
    """Weights become channels-last; oneDNN then answers in channels-last, whatever comes in."""
    layers = [layer for layer in module.modules() if type(layer) is nn.Conv2d]
    for layer in layers:
        layer.weight = nn.Parameter(layer.weight.detach().to(memory_format=torch.channels_last), requires_grad=False)
    return len(layers)
