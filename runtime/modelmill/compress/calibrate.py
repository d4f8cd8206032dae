"""Calibration: what comes into the layers on real data, and the scale of their int8 inputs that follows from it.

A layer without a chosen scale finds one for each row when it comes, largest / 127, and clips nothing. A chosen one saves
that look and can clip rare large inputs. Nagel et al. 2021, "A White Paper on Neural Network Quantization", compare the ways
of choosing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from modelmill.compress.errors import CompressionError
from modelmill.compress.grids.clipping import Clipping, MinMax, Percentile
from modelmill.compress.grids.grid import check_whole

BINS = 2048
_CANDIDATES = 128
"""Ranges that MSE tries, equally spaced up to the largest input."""


@dataclass(slots=True, kw_only=True, eq=False)
class Observation:
    """Of all inputs of one layer."""

    low: float = float("inf")
    high: float = float("-inf")
    reach: float = 0.0
    """Where the histogram ends; doubled whenever something larger comes."""
    histogram: torch.Tensor = field(default_factory=lambda: torch.zeros(BINS, dtype=torch.float64))
    """[BINS]: how many |x| are in each of the equal bins from 0 to reach."""
    squared: torch.Tensor | None = None
    """float64 [K] of a linear layer, [C] of a convolution: the sum of x^2 over rows, or samples and pixels, for each input."""

    def add(self, x: torch.Tensor, *, channels: int) -> None:
        """Inputs of any shape, where dimension `channels` is the layer's input."""
        seen = x.detach().to(torch.float32)
        squares = seen.movedim(channels, -1).reshape(-1, seen.shape[channels]).double().square().sum(dim=0).cpu()
        self.squared = squares if self.squared is None else self.squared + squares
        low, high = (float(bound) for bound in torch.aminmax(seen))
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen(max(-low, high))
        if self.reach:
            self.histogram += torch.histc(seen.abs(), bins=BINS, min=0, max=self.reach).cpu().double()
        else:
            self.histogram[0] += seen.numel()

    def _widen(self, largest: float) -> None:
        if not self.reach:
            self.reach = largest
        while self.reach < largest:
            pairs = self.histogram.view(-1, 2).sum(dim=1)
            self.histogram = torch.cat([pairs, torch.zeros_like(pairs)])
            self.reach *= 2

    def largest(self) -> float:
        """The largest |x|; 0 before anything was seen."""
        return max(-self.low, self.high, 0.0)


def observe(
    module: nn.Module, names: Sequence[str], batches: Iterable[torch.Tensor | tuple[torch.Tensor, Any]]
) -> dict[str, Observation]:
    """Runs the module, in evaluation, on the batches (inputs, or inputs and targets) and looks at the inputs of the layers that
    own the weights of these names. Raises CompressionError for a name that no layer owns, no input, or inputs that are
    not finite.
    """
    found = {name: Observation() for name in names}
    training = module.training
    hooks = [_owner(module, name).register_forward_pre_hook(partial(_look, name, found[name])) for name in names]
    try:
        module.eval()
        with torch.no_grad():
            for batch in batches:
                module(batch if isinstance(batch, torch.Tensor) else batch[0])
    finally:
        module.train(training)
        for hook in hooks:
            hook.remove()
    unseen = [name for name, seen in found.items() if seen.squared is None]
    if unseen:
        raise CompressionError(f"tensor {unseen[0]!r}: its layer got no input; give calibration rows, or leave the layer out")
    return found


def _owner(module: nn.Module, name: str) -> nn.Module:
    try:
        return module.get_submodule(name.rpartition(".")[0])
    except AttributeError:
        raise CompressionError(f"tensor {name!r}: the model has no layer of this name") from None


def _look(name: str, seen: Observation, layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    x = inputs[0]
    if not bool(x.isfinite().all()):
        raise CompressionError(f"tensor {name!r}: inputs of its layer are not finite; look at the calibration rows")
    if x.numel():
        # A convolution takes [B, C, ...] or, for one sample, [C, ...].
        spatial = layer.weight.dim() - 2 if isinstance(layer.weight, torch.Tensor) else 0
        seen.add(x, channels=-1 - spatial)


def activation_scale(seen: Observation, method: Clipping, *, bits: int = 8) -> float:
    """scale so that inputs become round(x / scale), clipped to +-(2^(bits - 1) - 1); 1 where all inputs were 0.

    MinMax: the largest |x| is not clipped. Percentile: nor is that share of the |x|, to within a bin. MSE: the range, among 128,
    with the least sum of squared errors over the histogram.
    """
    check_whole("bits", bits, least=2, most=8)
    most = (1 << (bits - 1)) - 1
    largest = seen.largest()
    if not largest:
        return 1.0
    if isinstance(method, MinMax):
        reach = largest
    elif isinstance(method, Percentile):
        reach = min(largest, _percentile(seen, method.percentile / 100))
    else:
        reach = _least_error(seen, largest, most)
    return max(reach / most, torch.finfo(torch.float32).tiny)


def _percentile(seen: Observation, share: float) -> float:
    running = seen.histogram.cumsum(0)
    found = int(torch.searchsorted(running, running[-1] * share))
    return (min(found, BINS - 1) + 1) * seen.reach / BINS


def _least_error(seen: Observation, largest: float, most: int) -> float:
    centres = (torch.arange(BINS, dtype=torch.float64) + 0.5) * (seen.reach / BINS)
    reaches = torch.linspace(0, largest, _CANDIDATES + 1, dtype=torch.float64)[1:]
    scales = (reaches / most)[:, None]
    rounded = (centres / scales).round_().clamp_(max=most) * scales
    # Within a bin inputs are spread, so what lies in one is not exactly at its centre: that error is the same for all ranges.
    errors = ((rounded - centres).square() * seen.histogram).sum(dim=1)
    return float(reaches[int(errors.argmin())])
