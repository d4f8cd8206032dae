"""Pruning by accumulated gradients, as AdaGrad accumulates them: what is small and was never pushed is dropped.

    G_t = G_(t-1) + g_t^2        g_t: the gradient of the weight at step t
    score = |w| * sqrt(G_t)
    mask: the smallest scores are dropped, a fraction s(t) of all by the schedule; w <- w * mask after each step

G_t / t estimates the diagonal of the Fisher matrix, and w^2 * F / 2 is the loss that removing w costs near a minimum
(LeCun, Denker, Solla 1990, "Optimal Brain Damage"); the score is its root, up to a constant that all weights share.
A single gradient, as in `gradient`, sees one batch; this sees all of training, at the price of one number for each weight.
Dropped stays dropped: its score is below every other. The accumulator is Duchi, Hazan, Singer 2011; the rule is our definition.
Nothing in the forward pass changes, so this needs no parametrization and works with any optimizer.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from modelmill.compress.errors import CompressionError
from modelmill.compress.prune.blocks import block_scores, check_height, spread
from modelmill.compress.prune.masks import Scope, masks_of
from modelmill.compress.prune.online.base import Online
from modelmill.compress.prune.schedules import Schedule


class AdaGrad(Online):
    """Drops the weights (or blocks of `height` outputs x 1 input) of the smallest |w| * sqrt(G), anew every `every` steps.

    A block's score is the root mean square of its weights' scores."""

    def __init__(
        self,
        module: nn.Module,
        names: Sequence[str],
        *,
        schedule: Schedule,
        scope: Scope = "Global",
        every: int = 1,
        height: int = 1,
    ) -> None:
        super().__init__(module, names)
        check_height(height)
        if every < 1:
            raise CompressionError(f"every {every} must be 1 step or more")
        self._schedule, self._scope, self._every, self._height = schedule, scope, every, height
        self._weights: dict[str, Any] = {name: getattr(layer, own) for name, (layer, own) in self._owners.items()}
        self._sums = {name: torch.zeros_like(weight, requires_grad=False) for name, weight in self._weights.items()}
        self._masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in self._weights.items()}

    @torch.no_grad()
    def step(self) -> None:
        """CompressionError where a weight has no gradient."""
        self.steps += 1
        for name, weight in self._weights.items():
            if weight.grad is None:
                raise CompressionError(f"{name}: no gradient; call step after backward and before gradients are cleared")
            self._sums[name] += weight.grad.square()
        if self.steps % self._every == 0:
            self._choose()
        self._apply()

    def masks(self) -> dict[str, torch.Tensor]:
        return {name: mask.clone() for name, mask in self._masks.items()}

    @torch.no_grad()
    def finish(self) -> dict[str, torch.Tensor]:
        """Chooses once more, so that the sparsity is that of the last step, whatever `every` is."""
        if self.steps:
            self._choose()
        self._apply()
        return self.masks()

    def _choose(self) -> None:
        scores = {name: self._score(name) for name in self._weights}
        chosen = masks_of(scores, sparsity=self._schedule.sparsity(self.steps), scope=self._scope)
        for name, kept in chosen.items():
            # What is dropped scores below all else; this only holds it there where a schedule goes back.
            self._masks[name] &= spread(kept, shape=tuple(self._masks[name].shape), height=self._height)

    def _score(self, name: str) -> torch.Tensor:
        """[ceil(N / height), K]; -1 where the block is dropped."""
        score = block_scores(self._weights[name].abs() * self._sums[name].sqrt(), height=self._height)
        dropped = block_scores(self._masks[name].float(), height=self._height) == 0
        return score.masked_fill(dropped, -1.0)

    def _apply(self) -> None:
        for name, weight in self._weights.items():
            weight.mul_(self._masks[name])
