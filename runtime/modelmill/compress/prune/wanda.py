"""Wanda: a weight counts for as much as the activations it meets.

    score[n, k] = |w[n, k]| * ||x_k||_2

where ||x_k|| is the norm of input k over all rows of the calibration data; scores are compared within each output row, never
across. For a convolution, input k is one channel at one place of the kernel, over all windows, as if it were unfolded.
Source: Sun, Liu, Bair, Kolter 2023, "A Simple and Effective Pruning Approach for Large Language Models". No training.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from modelmill.compress.errors import CompressionError
from modelmill.compress.prune.masks import kept_count, largest_of_rows


class InputNorms:
    """Norms of what layers are given, gathered while batches pass: `with norms.gathering(): module(batch)`."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        """By name: linear layers and two-dimensional convolutions. CompressionError for another one."""
        for name, layer in layers.items():
            if not isinstance(layer, nn.Linear | nn.Conv2d):
                raise CompressionError(f"{name}: {type(layer).__name__} has no rows of inputs; Wanda prunes Linear and Conv2d")
        self._layers = dict(layers)
        self._sums: dict[str, torch.Tensor] = {}

    @contextmanager
    def gathering(self) -> Iterator[None]:
        handles = [layer.register_forward_pre_hook(self._hook(name)) for name, layer in self._layers.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def norms(self, name: str) -> torch.Tensor:
        """Of the shape of the layer's weight but for N, which is 1, or the number of groups: float32 [G, K, ...].

        CompressionError where no batch reached the layer."""
        if name not in self._sums:
            raise CompressionError(f"{name}: no calibration batch reached this layer; leave it out, or give other data")
        return self._sums[name].sqrt().float()

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def gather(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            squares = _squares(layer, inputs[0].detach())
            self._sums[name] = self._sums[name] + squares if name in self._sums else squares

        return gather


def scores(weight: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    """float32, the weight's shape; `norms` as `InputNorms.norms` gives them."""
    magnitude = weight.detach().abs().float()
    return magnitude * norms.repeat_interleave(weight.shape[0] // norms.shape[0], 0)


def mask(weight: torch.Tensor, norms: torch.Tensor, *, sparsity: float) -> torch.Tensor:
    """bool, the weight's shape: in each output row of K, the K - round(sparsity * K) of the largest score are kept."""
    rows = scores(weight, norms).flatten(1)
    return largest_of_rows(rows, keep=kept_count(rows.shape[1], sparsity=sparsity)).view(weight.shape)


def _squares(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Sums of squares in float64, which calibration of any length cannot round away."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1]).double().square().sum(0, keepdim=True)
    assert isinstance(layer, nn.Conv2d)
    batch = x if x.dim() == 4 else x[None]
    # What torch itself pads with, for every kind of padding ("same" and "circular" too).
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = functional.pad(batch, layer._reversed_padding_repeated_twice, mode=mode)
    image = padded.double().square().sum(0, keepdim=True)
    kernel: Any = layer.kernel_size
    windows = functional.unfold(image, kernel, dilation=_pair(layer.dilation), stride=_pair(layer.stride))
    return windows.sum((0, 2)).view(layer.groups, layer.in_channels // layer.groups, *kernel)


def _pair(value: Any) -> tuple[int, int]:
    return (value[0], value[1])
