"""New layers in place of old ones, for edits of structure: the same settings, other sizes.

Only exact types can be made anew: what a subclass does with its sizes, nobody here knows. `where` begins each message.
"""

from typing import Any, TypeVar

import torch
from torch import nn

from modelmill.compress.errors import BadArtifact

Layer = TypeVar("Layer", bound=nn.Module)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def resized(layer: nn.Module, *, inputs: int | None, outputs: int | None, where: str) -> nn.Module:
    """A layer of the same kind with these sizes, None being the size it has; not larger than it is.

    A depthwise convolution has inputs = outputs = groups before and after; any other keeps its groups.
    Norms have outputs only."""
    if type(layer) is nn.Linear:
        n_in = _size("inputs", inputs, layer.in_features, where=where)
        n_out = _size("outputs", outputs, layer.out_features, where=where)
        return _linear(n_in, n_out, bias=layer.bias is not None, like=layer)
    if type(layer) is nn.Conv2d:
        return _resized_conv(layer, inputs=inputs, outputs=outputs, where=where)
    return _resized_norm(layer, inputs=inputs, outputs=outputs, where=where)


def factored(layer: nn.Module, *, rank: int, where: str) -> nn.Sequential:
    """A pair of layers: `[N, K]` as `[r, K]` without bias, then `[N, r]`; a convolution's K x K first, then 1 x 1.

    The rank is at most the smaller of N and K; K is C * h * w for a convolution."""
    if type(layer) is nn.Linear:
        outputs, inputs = layer.weight.shape
        _size("rank", rank, min(outputs, inputs), where=where)
        first = _linear(inputs, rank, bias=False, like=layer)
        return _like(nn.Sequential(first, _linear(rank, outputs, bias=layer.bias is not None, like=layer)), layer)
    if type(layer) is not nn.Conv2d or layer.groups != 1:
        groups = f" with {layer.groups} groups" if isinstance(layer, nn.Conv2d) else ""
        raise BadArtifact(f"{where}: {type(layer).__name__}{groups} cannot be factored; only linear layers and convolutions can")
    _size("rank", rank, min(layer.out_channels, layer.weight[0].numel()), where=where)
    spatial = _conv(layer, inputs=layer.in_channels, outputs=rank, bias=False)
    pointwise = _empty(nn.Conv2d, rank, layer.out_channels, 1, bias=layer.bias is not None, like=layer)
    return _like(nn.Sequential(spatial, pointwise), layer)


def biased(layer: nn.Module, norm: nn.Module, *, where: str) -> None:
    """Gives a convolution the bias that it has once the norm after it is folded in; in place, a bias that is there stays."""
    if type(layer) not in _CONVOLUTIONS or type(norm) not in _BATCH_NORMS:
        raise BadArtifact(f"{where}: {type(norm).__name__} cannot be folded into {type(layer).__name__}")
    assert isinstance(layer, _CONVOLUTIONS) and isinstance(norm, _BATCH_NORMS)
    if layer.out_channels != norm.num_features:
        raise BadArtifact(f"{where}: the norm is of {norm.num_features} channels, the convolution has {layer.out_channels}")
    if layer.bias is None:
        layer.bias = nn.Parameter(layer.weight.new_zeros(layer.out_channels), requires_grad=False)


def _resized_conv(layer: nn.Conv2d, *, inputs: int | None, outputs: int | None, where: str) -> nn.Conv2d:
    n_in = _size("inputs", inputs, layer.in_channels, where=where)
    n_out = _size("outputs", outputs, layer.out_channels, where=where)
    groups = layer.groups
    if groups > 1 and groups == layer.in_channels == layer.out_channels:
        if n_in != n_out:
            raise BadArtifact(f"{where}: inputs {n_in} and outputs {n_out} of a depthwise convolution must be the same")
        groups = n_out
    elif n_in % groups or n_out % groups:
        raise BadArtifact(f"{where}: inputs {n_in} and outputs {n_out} must be multiples of the {groups} groups")
    return _conv(layer, inputs=n_in, outputs=n_out, bias=layer.bias is not None, groups=groups)


def _resized_norm(layer: nn.Module, *, inputs: int | None, outputs: int | None, where: str) -> nn.Module:
    if isinstance(layer, _BATCH_NORMS) and type(layer) in _BATCH_NORMS:
        now = layer.num_features
        settings: dict[str, Any] = {
            "momentum": layer.momentum,
            "affine": layer.affine,
            "track_running_stats": layer.track_running_stats,
        }
    elif type(layer) is nn.LayerNorm and len(layer.normalized_shape) == 1:
        now = layer.normalized_shape[0]
        settings = {"elementwise_affine": layer.elementwise_affine, "bias": getattr(layer, "bias", None) is not None}
    else:
        raise BadArtifact(f"{where}: {type(layer).__name__} cannot be resized")
    if inputs is not None:
        raise BadArtifact(f"{where}: a norm has no inputs of its own; give outputs")
    size = _size("outputs", outputs, now, where=where)
    made: nn.Module = type(layer)(size, eps=layer.eps, **settings, **_place(layer))
    return _like(made, layer)


def _size(name: str, wanted: int | None, now: int, *, where: str) -> int:
    if wanted is None:
        return now
    if not 1 <= wanted <= now:
        raise BadArtifact(f"{where}: {name} {wanted} must be from 1 to {now}")
    return wanted


def _linear(inputs: int, outputs: int, *, bias: bool, like: nn.Module) -> nn.Linear:
    return _empty(nn.Linear, inputs, outputs, bias=bias, like=like)


def _conv(layer: nn.Conv2d, *, inputs: int, outputs: int, bias: bool, groups: int = 1) -> nn.Conv2d:
    return _empty(
        nn.Conv2d, inputs, outputs, layer.kernel_size, stride=layer.stride, padding=layer.padding, dilation=layer.dilation,
        groups=groups, padding_mode=layer.padding_mode, bias=bias, like=layer,
    )  # fmt: skip


def _empty(kind: type[Layer], *sizes: Any, like: nn.Module, **settings: Any) -> Layer:
    """The layer with zeros, without drawing random numbers: what is drawn later must not depend on the edits."""
    place = _place(like)
    made = kind(*sizes, **settings, device="meta", dtype=place.get("dtype"))
    if place.get("device") != torch.device("meta"):
        made = made.to_empty(device=place.get("device"))
        for parameter in made.parameters():
            nn.init.zeros_(parameter)
    return _like(made, like)


def _like(made: Layer, old: nn.Module) -> Layer:
    made.train(old.training)
    # A layer without parameters (a norm that is not affine) trains nothing either way.
    made.requires_grad_(all(parameter.requires_grad for parameter in old.parameters()))
    return made


def _place(layer: nn.Module) -> dict[str, Any]:
    """Device and dtype of the layer's tensors."""
    for tensor in [*layer.parameters(), *layer.buffers()]:
        if tensor.is_floating_point():
            return {"device": tensor.device, "dtype": tensor.dtype}
    return {}
