"""What every rule of online pruning has: `step` after each step of the optimizer, `finish` when training is over."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import nn

from modelmill.compress.errors import CompressionError


class Online(ABC):
    """Prunes some weights of a module while somebody trains it. After every `step` the module computes with the masks."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        """Names are those of parameters with two dimensions or more; CompressionError for another."""
        self.steps = 0
        self._owners = {name: _owner(module, name) for name in names}
        if not names:
            raise CompressionError("online pruning needs at least one weight to prune")

    @abstractmethod
    def step(self) -> None:
        """To be called after each step of the optimizer, before gradients are cleared."""

    @abstractmethod
    def masks(self) -> dict[str, torch.Tensor]:
        """bool by name, of the weights' shapes: what is kept now."""

    @abstractmethod
    def finish(self) -> dict[str, torch.Tensor]:
        """Leaves the module as it was made, with zeros where weights were pruned, and returns the masks."""


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The layer that owns a parameter, and the parameter's name there."""
    path, _, own = name.rpartition(".")
    try:
        parameter = module.get_parameter(name)
    except AttributeError as error:
        raise CompressionError(f"{name}: the model has no such parameter") from error
    if parameter.dim() < 2:
        raise CompressionError(f"{name}: has {parameter.dim()} dimensions; weights of linear layers and convolutions are pruned")
    return module.get_submodule(path), own
