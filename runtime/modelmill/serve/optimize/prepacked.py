"""Dense layers whose float32 weights lie as oneDNN's kernels read them, prepacked when the model is loaded.

torch's own linear layer goes to MKL, which does not use AVX-512 on every processor that has it, and its convolution turns
the weight around at each call. oneDNN on prepacked weights does a linear layer 2.3 times as fast on Zen 5 (2,048 x 2,048, 8 to
256 rows), a convolution up to twice where rows are few. torch._inductor prepacks alike when it freezes a module.

A call costs 10 us more than torch's, so small linear layers stay.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn

from modelmill.compress.graph.trace import Leaf, customised
from modelmill.serve.optimize.graphs import CONTAINERS

FEWEST_WEIGHTS = 1 << 17
"""Of a linear layer; below, a few rows take longer than they did."""
Size = tuple[int, ...]


class _Weight:
    """Has no storage that torch could show or copy: held beside the module's tensors, and shared by its copies."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Weight":
        return self


class _Prepacked(Leaf):
    """For inference, in float32 on the CPU."""

    def __init__(self, packed: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self._packed = _Weight(packed)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    @property
    def weight(self) -> torch.Tensor:
        """As it was, made anew each time, for a forward that reads it."""
        return self._packed.tensor.to_dense()


class PrepackedLinear(_Prepacked):
    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach()), layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise.default(x, self._packed.tensor, self.bias, "none", [], "")
        return out


class PrepackedConv2d(_Prepacked):
    def __init__(self, layer: nn.Conv2d, size: Size) -> None:
        """size: height and width of its images; others are convolved too, perhaps more slowly."""
        assert not isinstance(layer.padding, str)
        self._geometry = ([*layer.padding], [*layer.stride], [*layer.dilation], layer.groups)
        image = [1, layer.in_channels, *size]
        super().__init__(torch.ops.mkldnn._reorder_convolution_weight(layer.weight.detach(), *self._geometry, image), layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._convolution(x, "none")

    def rectified(self, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        """max(0, the convolution + residual)"""
        if residual is None:
            return self._convolution(x, "relu")
        operation = torch.ops.mkldnn._convolution_pointwise.binary
        x, residual = (one.contiguous(memory_format=torch.channels_last) for one in (x, residual))
        out: torch.Tensor = operation(x, residual, self._packed.tensor, self.bias, *self._geometry, "add", 1.0, "relu", [], None)
        return out

    def _convolution(self, x: torch.Tensor, then: str) -> torch.Tensor:
        operation = torch.ops.mkldnn._convolution_pointwise.default
        x = x.contiguous(memory_format=torch.channels_last)
        out: torch.Tensor = operation(x, self._packed.tensor, self.bias, *self._geometry, then, [], "")
        return out


def available() -> bool:
    """Whether torch has oneDNN, and these of its operators."""
    names = ("_reorder_linear_weight", "_linear_pointwise", "_reorder_convolution_weight", "_convolution_pointwise")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)


def prepack(module: nn.Module, sizes: Mapping[str, Size], *, but: Collection[str] = ()) -> int:
    """Replaces layers in place, but some; says how many. sizes: height and width of each convolution's images, by path."""
    if not available():
        return 0
    layers = [(path, layer) for path, layer in module.named_modules() if path]
    weights = Counter(id(getattr(layer, "weight", None)) for _, layer in layers)
    count = 0
    for path, layer in layers:
        private = path not in but and weights[id(getattr(layer, "weight", None))] == 1 and not _is_read_by(module, path)
        made = _prepacked(layer, sizes.get(path, ())) if private else None
        if made is not None:
            module.set_submodule(path, made)
            count += 1
    return count


def _is_read_by(module: nn.Module, path: str) -> bool:
    """Whether the layer's parent is one of torch's own, such as a transformer's, which reads weights past their layers."""
    parent = module.get_submodule(path.rpartition(".")[0])
    only_holds = type(parent) is nn.Module or isinstance(parent, CONTAINERS)  # a graph's module has plain modules for paths
    return type(parent).__module__.startswith("torch.nn.") and not only_holds


def _prepacked(layer: nn.Module, size: Size) -> _Prepacked | None:
    """Of the exact types: a subclass may use its weight in ways that nobody here knows."""
    if customised(layer) or not isinstance(layer, nn.Linear | nn.Conv2d) or layer.weight.dtype != torch.float32:
        return None
    if type(layer) is nn.Linear:
        return PrepackedLinear(layer) if layer.weight.numel() >= FEWEST_WEIGHTS else None
    plain = type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return PrepackedConv2d(layer, size) if isinstance(layer, nn.Conv2d) and plain and len(size) == 2 else None
