"""How much a channel matters, from the parameters of all layers that produce it.

    Taylor: score[c] = mean over batches of (sum over the producers of gate[c])^2,   gate[c] = sum of w * dL/dw over w of c
    L2:     score[c] = sum over producers and readers of ||w of c||_2^2 / (mean over the channels of the same)

The gate is the first-order change of the loss when the channel is multiplied by 1 - 1: of a batch norm's scale and
shift where there is one, else of the layer's weight and bias (Molchanov et al. 2019, "Importance Estimation for Neural Network
Pruning"). L2 needs no data, and divides by the mean of each layer so that groups can be compared at all (as DepGraph
does); its weights are those after the batch norm that follows, w * scale / sqrt(var + eps).
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from modelmill.compress.errors import CompressionError
from modelmill.compress.prune.channels.groups import Group, Part

Scores = Callable[[Group], torch.Tensor]
"""float [channels] of a group, each >= 0."""
_BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_GATED = (nn.Linear, nn.Conv2d, *_BATCH_NORM)


def by_norm(module: nn.Module) -> Scores:
    def scores(group: Group) -> torch.Tensor:
        total = torch.zeros(group.channels, dtype=torch.float64)
        scale = _norm_scale(module, group)
        for part in group.parts:
            layer: Any = module.get_submodule(part.path)
            if not isinstance(layer, nn.Linear | nn.Conv2d):
                continue
            weight = layer.weight.detach().double()
            per_index = (weight.transpose(0, 1) if part.side == "inputs" else weight).flatten(1).square().sum(1).cpu()
            squares = _sum(part, per_index) * (1.0 if part.side == "inputs" else scale.square())
            total += squares / squares.mean().clamp(min=torch.finfo(squares.dtype).tiny)
        return total

    return scores


def by_taylor(module: nn.Module, losses: Iterable[torch.Tensor | Callable[[], torch.Tensor]]) -> Scores:
    """One loss (or a function that gives it) for each batch; of a module that evaluates, so that norms are not of the batch.

    CompressionError without any batch, and for a gradient that is not finite."""
    layers: dict[str, nn.Module] = {path: layer for path, layer in module.named_modules() if isinstance(layer, _GATED)}
    gates: dict[str, list[torch.Tensor]] = {path: [] for path in layers}
    for loss in losses:
        for path, gate in _gates(layers, loss() if callable(loss) else loss).items():
            gates[path].append(gate)
    if not any(gates.values()):
        raise CompressionError("importance Taylor needs at least one batch of training data")

    def scores(group: Group) -> torch.Tensor:
        producers = [part for part in group.parts if part.side != "inputs"]
        norms = [part for part in producers if isinstance(layers[part.path], _BATCH_NORM)]
        together = torch.stack([_sum(part, torch.stack(gates[part.path], 1)) for part in norms or producers]).sum(0)
        return together.square().mean(1)

    return scores


def _gates(layers: dict[str, nn.Module], loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """float64 [outputs] of each layer: the sum of w * dL/dw over the parameters of each output."""
    owned = [(path, parameter) for path, layer in layers.items() for parameter in layer.parameters(recurse=False)]
    gradients = torch.autograd.grad(loss, [parameter for _, parameter in owned], allow_unused=True)
    gates: dict[str, torch.Tensor] = {}
    for (path, parameter), gradient in zip(owned, gradients, strict=True):
        product = parameter.detach() * (torch.zeros_like(parameter) if gradient is None else gradient)
        gate = product.double().reshape(len(product), -1).sum(1).cpu()
        if not bool(gate.isfinite().all()):
            raise CompressionError(f"importance Taylor: the gradient of {path!r} holds NaN or infinity")
        gates[path] = gates[path] + gate if path in gates else gate
    return gates


def _norm_scale(module: nn.Module, group: Group) -> torch.Tensor:
    """float64 [channels]: what the group's batch norm multiplies a channel by; 1 where there is none, or several."""
    norms = [part for part in group.parts if isinstance(module.get_submodule(part.path), _BATCH_NORM)]
    layer: Any = module.get_submodule(norms[0].path) if len(norms) == 1 else None
    if layer is None or layer.weight is None or layer.running_var is None or len(norms[0].of_channel[0]) != 1:
        return torch.ones(group.channels, dtype=torch.float64)
    factor = layer.weight.detach().double() / (layer.running_var.double() + layer.eps).sqrt()
    return _sum(norms[0], factor.cpu())


def _sum(part: Part, values: torch.Tensor) -> torch.Tensor:
    """[channels, ...] of [indices, ...]: each channel's indices summed."""
    return torch.stack([values[list(indices)].sum(0) for indices in part.of_channel])
