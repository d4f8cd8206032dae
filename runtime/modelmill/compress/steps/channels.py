"""Pruning of whole channels or heads: the module itself becomes smaller, and what it computes too."""

from collections.abc import Iterator

import torch

from modelmill.compress.draft import Context, Draft
from modelmill.compress.errors import CompressionError
from modelmill.compress.prune.attention import attentions
from modelmill.compress.prune.heads import prune_heads
from modelmill.compress.prune.structured import Pruned, prune_channels
from modelmill.compress.steps.training import CALIBRATION_ROWS, train
from modelmill.compress.tune import settle_norms
from modelmill.contract.steps import Prune

TILE = 16
"""Output channels that kernels compute on together: other numbers would be rounded up to it."""


def run(step: Prune, draft: Draft, context: Context) -> None:
    made = _heads(step, draft, context) if step.method == "Heads" else _channels(step, draft, context)
    draft.module = made.module.requires_grad_(False)
    settle_norms(draft.module, context.material.calibration(rows=CALIBRATION_ROWS))
    draft.structure += made.edits
    share = made.macs_after / made.macs_before
    draft.notes.append(f"{step.method}: {share:.3f} of the multiplications are left; smaller in {len(made.channels)} places")
    draft.notes.extend(f"{path}: stays as wide as it is: {reason}" for path, reason in made.refused.items())
    if step.training is not None:
        train(step.training, draft, context, label="prune")


def _channels(step: Prune, draft: Draft, context: Context) -> Pruned:
    """Removes `sparsity` of the multiplications, by first-order importance on calibration rows."""
    batches = context.material.calibration(rows=CALIBRATION_ROWS)
    module = draft.module.requires_grad_(True)

    def losses() -> Iterator[torch.Tensor]:
        for inputs, targets in batches:
            yield context.recipe.loss(module(inputs), targets)

    macs, example = 1 / (1 - (step.sparsity or 0.0)), batches[0][0][:1]
    return prune_channels(module, example, macs=macs, importance="Taylor", losses=losses(), round_to=TILE)


def _heads(step: Prune, draft: Draft, context: Context) -> Pruned:
    """Removes `sparsity` of each attention's heads, at least one and not all: those of the smallest weights."""
    found, refused = attentions(draft.module)
    if not found:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in list(refused.items())[:3])
        raise CompressionError(f"no attention with heads to remove: {reasons or 'the model has none'}")
    heads = max(attention.heads for attention in found)
    keep = min(heads - 1, max(1, round(heads * (1 - (step.sparsity or 0.0)))))
    return prune_heads(draft.module, context.material.calibration(rows=1)[0][0][:1], keep=keep)
