"""Pruning of whole channels: the module itself becomes smaller, and what it computes too."""

from collections.abc import Iterator

import torch

from modelmill.compress.draft import Context, Draft
from modelmill.compress.prune.structured import prune_channels
from modelmill.compress.steps.training import CALIBRATION_ROWS, train
from modelmill.contract.steps import Prune

TILE = 16
"""Output channels that kernels compute on together: other numbers would be rounded up to it."""


def run(step: Prune, draft: Draft, context: Context) -> None:
    """Removes `sparsity` of the multiplications, by first-order importance on calibration rows."""
    batches = context.material.calibration(rows=CALIBRATION_ROWS)
    module = draft.module.requires_grad_(True)

    def losses() -> Iterator[torch.Tensor]:
        for inputs, targets in batches:
            yield context.recipe.loss(module(inputs), targets)

    macs, example = 1 / (1 - (step.sparsity or 0.0)), batches[0][0][:1]
    made = prune_channels(module, example, macs=macs, importance="Taylor", losses=losses(), round_to=TILE)
    draft.module = made.module.requires_grad_(False)
    draft.structure += made.edits
    share = made.macs_after / made.macs_before
    draft.notes.append(f"channels: {share:.3f} of the multiplications are left, in {len(made.channels)} groups of layers")
    draft.notes.extend(f"{path}: keeps its channels: {reason}" for path, reason in made.refused.items())
    if step.training is not None:
        train(step.training, draft, context, label="prune")
