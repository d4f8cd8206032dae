"""Training with a grid in place: forward computes with what the file would hold, backward changes the floats behind it.

    forward  w' = decode(encode(w))        backward  dL/dw = dL/dw'    (0 where a clipping grid cut w off)

The straight-through estimator: Bengio et al. 2013, "Estimating or Propagating Gradients Through Stochastic Neurons". It is
the same for every grid. Where finding scales and levels is slow, that is done every `refit` steps, and the nearest values
are taken between.

Weight sharing over a whole tensor is trained as Han et al. 2016 do ("Deep Compression"): which weight shares with which is
fixed once, and the centres learn. A centre is the mean of the weights behind it, so it moves by the mean of their gradients
(theirs: the sum, which is a learning rate that depends on the size of the cluster).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from modelmill.compress.codes import Codes, weight_of
from modelmill.compress.errors import CompressionError
from modelmill.compress.grids.codebook import LARGEST
from modelmill.compress.grids.grid import Grid, check_whole
from modelmill.compress.grids.kmeans import KMeans
from modelmill.compress.grids.nearest import reassign
from modelmill.compress.grids.xnor import Xnor

ACTIVATION_LIMIT = 127
"""Of int8 inputs."""


class FakeQuantize(nn.Module):
    """A parametrization: the weight as the grid would store it."""

    def __init__(self, grid: Grid, name: str, *, refit: int = 50) -> None:
        super().__init__()
        check_whole("refit", refit, least=1, most=1 << 31)
        self.grid, self.name, self.refit = grid, name, refit
        self.steps = 0
        self.codes: Codes | None = None

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        codes = self._fitted(weight)
        value = codes.decode().to(weight.dtype)
        # Beyond half a step and a rounding: cut off, not rounded.
        kept = (value - weight.detach()).abs() <= _steps_of(codes, weight) * 0.501 if self.grid.clips else None
        return _through(weight, value, kept)

    def _fitted(self, weight: torch.Tensor) -> Codes:
        due = self.grid.quick or (self.training and self.steps % self.refit == 0)
        self.steps += self.training
        if due or self.codes is None or self.codes.codes.device != weight.device:
            self.codes = self.grid.encode(weight, name=self.name)
        else:
            self.codes = reassign(self.codes, weight)
        return self.codes


class Centres(nn.Module):
    """A parametrization: the weight as shared values, each the mean of the weights behind it."""

    cluster: torch.Tensor | None
    """int64 [weights]: which value each weight has; None before the first forward."""
    counts: torch.Tensor
    """float64 [values]: how many weights have it."""

    def __init__(self, grid: KMeans, name: str) -> None:
        super().__init__()
        self.grid, self.name = grid, name
        self.register_buffer("cluster", None, persistent=False)
        self.register_buffer("counts", None, persistent=False)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        cluster = self.cluster if self.cluster is not None else self._assign(weight)
        # In float64: a float32 sum of many equal values loses digits.
        sums = torch.zeros_like(self.counts).index_add(0, cluster, weight.flatten().double())
        centres = (sums / self.counts).to(weight.dtype)
        return _through(centres, _rounded(centres.detach()), None)[cluster].view(weight.shape)

    def _assign(self, weight: torch.Tensor) -> torch.Tensor:
        values, cluster = self.grid.encode(weight, name=self.name).decode().unique(return_inverse=True)
        self.cluster = cluster.flatten()
        self.counts = torch.bincount(self.cluster).double()
        if self.grid.zero_kept:  # The centre at 0 stays there, whatever its weights do.
            self.counts[values == 0] = torch.inf
        return self.cluster


def _rounded(centres: torch.Tensor) -> torch.Tensor:
    """As the file has them."""
    scale = (centres.abs().max() / LARGEST).clamp_min(torch.finfo(torch.float32).tiny)
    return (centres / scale).round() * scale


def _through(weight: torch.Tensor, value: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
    """`value` to the bit, with the gradient of `weight` where it is kept."""
    result: torch.Tensor = _StraightThrough.apply(weight, value, kept)
    return result


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, value: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
        ctx.kept = kept
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        gradient = gradients[0]
        return gradient if ctx.kept is None else gradient * ctx.kept, None, None


def _steps_of(codes: Codes, weight: torch.Tensor) -> torch.Tensor:
    """The scale of each weight."""
    rows = codes.scale.repeat_interleave(codes.codes.shape[1] // codes.scale.shape[1], dim=1)
    return weight_of(rows, weight.shape)


class FakeActivations:
    """A forward pre-hook: inputs as int8 would hold them; with a scale of their own for each row of a linear layer and
    each sample of a convolution, as the product does it, or the one that calibration chose, which clips.
    """

    def __init__(self, scale: float | None) -> None:
        self.scale = scale

    def __call__(self, layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        x, *others = inputs
        seen = x.detach()
        scale = self._scale(seen, of_rows=isinstance(layer, nn.Linear))
        numbers = (seen / scale).round()
        kept = numbers.abs() <= ACTIVATION_LIMIT
        return _through(x, numbers.clamp(-ACTIVATION_LIMIT, ACTIVATION_LIMIT) * scale, kept), *others

    def _scale(self, x: torch.Tensor, *, of_rows: bool) -> torch.Tensor:
        if self.scale is not None:
            return x.new_tensor(self.scale)
        over = -1 if of_rows else tuple(range(max(0, x.dim() - 3), x.dim()))
        return (x.abs().amax(dim=over, keepdim=True) / ACTIVATION_LIMIT).clamp_min(torch.finfo(torch.float32).tiny)


class FakeSigns:
    """A forward pre-hook: mean|x| * sign(x) for each row, of a convolution each sample; the gradient passes where |x| <= 1."""

    def __call__(self, layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        x, *others = inputs
        seen = x.detach()
        size = seen.abs().mean(dim=(-3, -2, -1) if isinstance(layer, nn.Conv2d) else -1, keepdim=True)
        return _through(x, torch.where(seen < 0, -size, size), seen.abs() <= 1), *others


def attach(
    module: nn.Module,
    grids: Mapping[str, Grid],
    *,
    refit: int = 50,
    activations: bool = False,
    activation_scales: Mapping[str, float] | None = None,
) -> None:
    """From now on the module computes with its weights of these names on their grids, and with int8 inputs if wanted.

    The floats behind are at `parametrizations.<name>.original`: make the optimizer after this call. Wrong names, or weights
    that a grid refuses, raise CompressionError and leave the module as it was.
    """
    attached: dict[str, Grid] = {}
    try:
        for name, grid in grids.items():
            layer, own = _owner(module, name)
            centred = isinstance(grid, KMeans) and grid.granularity == "Tensor"
            made = Centres(grid, name) if centred and isinstance(grid, KMeans) else FakeQuantize(grid, name, refit=refit)
            attached[name] = grid
            parametrize.register_parametrization(layer, own, made.train(layer.training))
            if activations:
                scale = (activation_scales or {}).get(name)
                layer.register_forward_pre_hook(FakeSigns() if isinstance(grid, Xnor) else FakeActivations(scale))
    except CompressionError:
        settle(module, attached)
        raise


def settle(module: nn.Module, grids: Mapping[str, Grid]) -> None:
    """Takes off what `attach` put on. Weights are the floats again; those of trained centres are the centres, which the grid
    gives back as they are. Other parametrizations of a weight, such as a mask, stay.
    """
    for name in grids:
        layer, own = _owner(module, name)
        for key, hook in list(layer._forward_pre_hooks.items()):
            if isinstance(hook, FakeActivations | FakeSigns):
                del layer._forward_pre_hooks[key]
        if parametrize.is_parametrized(layer, own):
            _take_off(layer, own)


def _take_off(layer: nn.Module, own: str) -> None:
    held: Any = layer.parametrizations
    steps: parametrize.ParametrizationList = held[own]
    ours = [isinstance(step, FakeQuantize | Centres) for step in steps]
    if any(isinstance(step, Centres) for step in steps):
        with torch.no_grad():
            value = getattr(layer, own).clone()
            steps.original.copy_(value)
    if all(ours):
        parametrize.remove_parametrizations(layer, own, leave_parametrized=False)
        return
    for index, is_ours in enumerate(ours):
        if is_ours:  # torch takes off all or none.
            steps[index] = nn.Identity()


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, own = name.rpartition(".")
    try:
        layer = module.get_submodule(path)
    except AttributeError:
        layer = module
        own = ""
    if not own or not isinstance(getattr(layer, own, None), torch.Tensor):
        raise CompressionError(f"tensor {name!r}: the model has no weight of this name")
    return layer, own
