"""A way: a linear layer that multiplies by a compressed weight as a GPU's library wants it, for inference only.

It is made once, when a model is loaded, and holds nothing of the weight's stored form. All of it is torch's operators, so
`torch.export` and `torch.compile` see through it.
"""

from abc import abstractmethod
from typing import ClassVar, NamedTuple, Self

import torch
from torch import nn

from modelmill.kernels.gpu.whole import Whole

Capability = tuple[int, int]
"""NVIDIA's compute capability, such as (9, 0)."""


class Trial(NamedTuple):
    """A weight that a way has to be right for before it is used: random, but exact in each number format on the way."""

    outputs: int
    inputs: int
    groups: int = 1
    zeros: bool = False


class Way(nn.Module):
    """x [..., K] times the weight transposed, plus bias: [..., N], of x's type."""

    name: ClassVar[str]
    precision: ClassVar[torch.dtype]
    """Of its answers, before they get x's type."""
    levels: ClassVar[tuple[int, ...]]
    """What numbers of its trials may be."""
    two_of_four: ClassVar[bool] = False
    trials: ClassVar[tuple[Trial, ...]]
    bias: torch.Tensor | None

    def __init__(self, weight: Whole, bias: torch.Tensor | None, **prepared: torch.Tensor | None) -> None:
        """`bias` [N]; `prepared`: what the product takes of the weight."""
        super().__init__()
        self.outputs, self.inputs, self.activation_scale = weight.outputs, weight.inputs, weight.activation_scale
        self.register_buffer("bias", bias)
        for name, tensor in prepared.items():
            self.register_buffer(name, tensor)

    @classmethod
    @abstractmethod
    def refusal(cls, weight: Whole, capability: Capability) -> str | None:
        """Why it cannot take the weight on such a device; None where it can."""

    @classmethod
    @abstractmethod
    def of(cls, weight: Whole, bias: torch.Tensor | None) -> Self:
        """Made on the weight's device, of a weight without `refusal`."""

    @abstractmethod
    def product(self, x: torch.Tensor) -> torch.Tensor:
        """x [M, K] times the weight transposed: [M, N]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.product(x.reshape(-1, self.inputs))
        y = y if self.bias is None else y + self.bias
        return y.to(x.dtype).view(*x.shape[:-1], self.outputs)

    def extra_repr(self) -> str:
        return f"{[self.outputs, self.inputs]}, {self.name}"


def too_old(least: Capability, capability: Capability) -> str | None:
    """The refusal of a device that is older than `least`."""
    told = "it needs compute capability {}.{}, this device has {}.{}"
    return told.format(*least, *capability) if capability < least else None
