"""Small convolutional networks, each with something that a rewriting can get wrong."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

CHANNELS, SIZE = 4, 8
IMAGES = torch.zeros(3, CHANNELS, SIZE, SIZE)


def conv(inputs: int = CHANNELS, outputs: int = CHANNELS, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, **{"padding": 1, **options})


def norm(channels: int = CHANNELS) -> nn.BatchNorm2d:
    """With statistics that are not the trivial ones."""
    layer = nn.BatchNorm2d(channels)
    for tensor in (layer.weight, layer.running_var):
        assert tensor is not None
        nn.init.uniform_(tensor, 0.5, 1.5)
    for tensor in (layer.bias, layer.running_mean):
        assert tensor is not None
        nn.init.normal_(tensor)
    return layer


class Net(nn.Module):
    """Layers by name, and a forward: a model in one expression."""

    def __init__(self, forward: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: torch.Tensor) -> Any:
        return self.run(self, x)


def residual(net: Any, x: torch.Tensor) -> torch.Tensor:
    y: torch.Tensor = net.relu(net.norm1(net.one(x)))
    z: torch.Tensor = net.relu(net.norm2(net.two(y)) + net.shortcut(x))
    return z


def functions(net: Any, x: torch.Tensor) -> torch.Tensor:
    y: torch.Tensor = net.two(functional.relu(net.norm1(net.one(x)), inplace=True))
    y += x
    return torch.relu(y).view(-1, CHANNELS * SIZE * SIZE)


def in_place_on_the_other(net: Any, x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    z = net.one(y)
    y += z
    product: torch.Tensor = y * net.two(y)
    return product


def changed_before_the_sum(net: Any, x: torch.Tensor) -> torch.Tensor:
    y = x - 0.5
    z = net.one(y)
    total: torch.Tensor = z + y.relu_()
    return total


def in_place_on_the_input(net: Any, x: torch.Tensor) -> torch.Tensor:
    y: torch.Tensor = net.one(x.sub_(0.5))
    return y


def twice_itself(net: Any, x: torch.Tensor) -> torch.Tensor:
    y = net.one(x)
    total: torch.Tensor = y + y
    return total


def pairs() -> dict[str, nn.Module]:
    return {"one": conv(), "two": conv(bias=False), "norm1": norm(), "norm2": norm(), "relu": nn.ReLU(inplace=True)}


NETS: dict[str, Callable[[], nn.Module]] = {
    "a residual block": lambda: Net(residual, **pairs(), shortcut=nn.Identity()),
    "a residual block with a convolution on its shortcut": lambda: Net(
        residual, **pairs(), shortcut=nn.Sequential(conv(), norm())
    ),
    "functions, in place, and a view": lambda: Net(functions, **pairs()),
    "a sum into the other operand": lambda: Net(in_place_on_the_other, one=conv(), two=conv()),
    "an input that changes before the sum": lambda: Net(changed_before_the_sum, one=conv()),
    "the input changed in place": lambda: Net(in_place_on_the_input, one=conv()),
    "a sum with itself": lambda: Net(twice_itself, one=conv()),
    "the activation before the sum": lambda: Net(lambda net, x: x + net.relu(net.one(x)), one=conv(), relu=nn.ReLU()),
    "an activation after the sum that its kernel has not": lambda: Net(
        lambda net, x: functional.silu(net.one(x) + x), one=conv()
    ),
    "one convolution called twice": lambda: Net(lambda net, x: net.norm(net.one(net.one(x))), one=conv(), norm=norm()),
    "a result that two use": lambda: Net(lambda net, x: functional.relu(y := net.one(x)) - y, one=conv()),
    "one batch norm after two convolutions": lambda: Net(
        lambda net, x: net.norm(net.one(x)) * net.norm(net.two(x)), one=conv(), two=conv(), norm=norm()
    ),
    "one batch norm under two names": lambda: Net(
        lambda net, x: net.alias(net.one(x)), one=conv(), norm=(layer := norm()), alias=layer
    ),
    "batch norm by the batch": lambda: nn.Sequential(conv(), nn.BatchNorm2d(CHANNELS, track_running_stats=False)),
    "batch norm before the convolution": lambda: nn.Sequential(norm(), nn.ReLU(), conv()),
    "batch norm without parameters": lambda: nn.Sequential(conv(), nn.BatchNorm2d(CHANNELS, affine=False)),
    "depthwise and grouped": lambda: nn.Sequential(
        conv(groups=CHANNELS), norm(), nn.ReLU6(), conv(groups=2, bias=False), norm(), nn.Hardswish()
    ),
    "stride, dilation, no padding": lambda: nn.Sequential(
        conv(stride=2, padding=2, dilation=2), nn.SiLU(), nn.Conv2d(CHANNELS, 6, (2, 1), padding=0), norm(6)
    ),
    "padding by name or by reflection": lambda: nn.Sequential(
        conv(padding="same"), norm(), conv(padding_mode="reflect"), norm(), nn.ReLU()
    ),
    "one dimension": lambda: nn.Sequential(
        nn.Flatten(2), nn.Conv1d(CHANNELS, 5, 3), nn.BatchNorm1d(5), nn.Dropout(), nn.ReLU(), nn.Flatten(), nn.Linear(310, 3)
    ),
    "named outputs": lambda: Net(lambda net, x: {"a": net.one(x), "b": (x.argmax(1), [net.one(x).mean((2, 3))])}, one=conv()),
    "a weight that is read": lambda: Net(lambda net, x: net.two(net.one(x)) / net.one.weight.norm(), one=conv(), two=conv()),
    "images one by one": lambda: Net(
        lambda net, x: torch.stack([net.one(x[0]) + x[0], functional.relu(net.one(x[-1]))]).sum(0).expand(x.shape), one=conv()
    ),
    "a sum that is broadcast": lambda: Net(lambda net, x: net.one(x) + x.mean((2, 3), keepdim=True), one=conv()),
}


def assert_same(ours: Any, expected: Any) -> None:
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
