"""Which weights of a module can be compressed, and why the others stay as they are."""

from collections import Counter
from dataclasses import dataclass

from torch import nn

from modelmill.compress import modules

WEIGHT = "weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    layers: dict[str, str]
    """Name of a weight in the state dict -> path of the layer that owns it."""
    kept: dict[str, str]
    """Name of a weight with at least two dimensions that stays dense -> why."""


def select(module: nn.Module) -> Selection:
    """Weights of linear layers and convolutions, but for those that several layers share."""
    owners = Counter(id(parameter) for _, parameter in module.named_parameters(remove_duplicate=False))
    layers: dict[str, str] = {}
    kept: dict[str, str] = {}
    for path, layer in module.named_modules(remove_duplicate=False):
        for own, parameter in layer.named_parameters(recurse=False):
            name = f"{path}.{own}" if path else own
            if parameter.dim() < 2:
                continue
            reason = modules.refusal(layer) if own == WEIGHT else f"{type(layer).__name__} has no compressed form yet"
            if reason is None and not path:
                reason = "the model itself is this layer and cannot be replaced within"
            if reason is None and owners[id(parameter)] > 1:
                reason = "several layers share it"
            if reason is None:
                layers[name] = path
            else:
                kept[name] = reason
    return Selection(layers=layers, kept=kept)
