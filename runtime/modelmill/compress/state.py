"""A module's tensors by name."""

from typing import Any

import torch
from torch import nn

from modelmill.compress.errors import CompressionError


def tensors_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """The module's state dict, which must hold tensors only."""
    state: dict[str, Any] = module.state_dict()
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise CompressionError(
                f"state {name!r}: a {type(value).__name__} cannot be stored without pickle; keep it in a buffer, or in the recipe"
            )
    return state
