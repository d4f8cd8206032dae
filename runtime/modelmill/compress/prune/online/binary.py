"""A binary mask that is trained with the weights: a real variable m for each weight says whether it is kept.

    computed with:  w' = w * b                       b = 1[m > 0]
    gradients:      dL/dw = dL/dw' * b               dL/dm = dL/dw' * w   where |m| <= 1, else 0

The step function has no gradient of its own, so m gets that of the identity (straight through), within [-1, 1], to which m
is cut after each step. So m falls where dropping the weight lowers the loss, and a dropped weight can come back. It begins
at m = |w| / max |w| of the layer: the smallest are nearest to being dropped, and a zero stays zero.

What makes it sparse is one of two:
    penalty p:  m <- m - p after each step: the sub-gradient of p * (number of weights kept), seen straight through
    schedule s: b = 1 at the largest m, so that a fraction s(t) is dropped exactly, whatever their sign

Sources of the parts: Bengio, Leonard, Courville 2013 (straight through); Mallya, Davis, Lazebnik 2018, "Piggyback"
(real variables behind a binary mask); Ramanujan et al. 2020 (the largest are kept). Their union here is our definition.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from modelmill.compress.errors import CompressionError
from modelmill.compress.prune.blocks import block_scores, check_height, spread
from modelmill.compress.prune.masks import Scope, masks_of
from modelmill.compress.prune.online.base import Online
from modelmill.compress.prune.schedules import Schedule


class BinaryMask(Online):
    """Trains a mask for each weight. Exactly one of `schedule` and `penalty` (> 0, of m at each step) is given.

    Make it before the optimizer: the variables are parameters of the module, and are trained by the same optimizer, or by
    a group of their own (`variables`), best without weight decay."""

    def __init__(
        self,
        module: nn.Module,
        names: Sequence[str],
        *,
        schedule: Schedule | None = None,
        penalty: float = 0.0,
        scope: Scope = "Layer",
        height: int = 1,
    ) -> None:
        super().__init__(module, names)
        check_height(height)
        if not (math.isfinite(penalty) and penalty >= 0) or (schedule is None) == (penalty == 0):
            raise CompressionError(
                f"a mask that is trained needs a schedule, or a penalty above 0 (it is {penalty}), and not both"
            )
        self._schedule, self._penalty, self._scope = schedule, penalty, scope
        self._trained = {name: _attach(layer, own, height) for name, (layer, own) in self._owners.items()}
        self._choose()

    def variables(self) -> list[nn.Parameter]:
        return [mask.variable for mask in self._trained.values()]

    @torch.no_grad()
    def step(self) -> None:
        self.steps += 1
        for mask in self._trained.values():
            mask.variable.sub_(self._penalty).clamp_(-1, 1)
        self._choose()

    def masks(self) -> dict[str, torch.Tensor]:
        return {name: mask.mask() for name, mask in self._trained.items()}

    def finish(self) -> dict[str, torch.Tensor]:
        masks = self.masks()
        for layer, own in self._owners.values():
            parametrize.remove_parametrizations(layer, own, leave_parametrized=True)
            # It is the last of the layer's parameters now; a state dict has it first.
            for name, parameter in list(layer.named_parameters(recurse=False)):
                if name != own:
                    delattr(layer, name)
                    layer.register_parameter(name, parameter)
        return masks

    @torch.no_grad()
    def _choose(self) -> None:
        variables = {name: mask.variable for name, mask in self._trained.items()}
        if self._schedule is None:
            chosen = {name: variable > 0 for name, variable in variables.items()}
        else:
            chosen = masks_of(variables, sparsity=self._schedule.sparsity(self.steps), scope=self._scope)
        for name, mask in self._trained.items():
            mask.chosen.copy_(chosen[name])


class _Masked(nn.Module):
    """The parametrization: the weight times its mask, with one variable for each block."""

    chosen: torch.Tensor

    def __init__(self, weight: torch.Tensor, height: int) -> None:
        super().__init__()
        self._height, self._shape = height, tuple(weight.shape)
        size = block_scores(weight, height=height)
        self.variable = nn.Parameter((size / size.max().clamp(min=torch.finfo(size.dtype).tiny)).to(weight.dtype))
        self.register_buffer("chosen", torch.ones_like(self.variable, dtype=torch.bool))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        # The difference is exactly 0, so the mask stays exactly 0 or 1, with the gradient of the identity. Not clamp, whose
        # gradient ends before 1, where variables lie that were cut to it: they could never fall again.
        within = self.variable.detach().abs() <= 1
        kept = self.chosen.to(weight.dtype) + (self.variable - self.variable.detach()) * within
        return weight * self._spread(kept)

    def mask(self) -> torch.Tensor:
        return self._spread(self.chosen).clone()

    def _spread(self, blocks: torch.Tensor) -> torch.Tensor:
        return spread(blocks, shape=self._shape, height=self._height)


def _attach(layer: nn.Module, own: str, height: int) -> _Masked:
    weight: Any = getattr(layer, own)
    made = _Masked(weight.detach(), height)
    parametrize.register_parametrization(layer, own, made)
    return made
