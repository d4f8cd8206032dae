"""How steps train: with the masks held, towards the targets and the trained dense model."""

from collections.abc import Callable

import torch
from torch import nn

from modelmill.compress.distill.simple import Soft, distill
from modelmill.compress.distill.soft import Kind
from modelmill.compress.draft import Context, Draft
from modelmill.compress.errors import CompressionError
from modelmill.compress.select import select
from modelmill.compress.tune import Training, hold
from modelmill.contract import steps as contract

CALIBRATION_ROWS = 256


def needed(context: Context | None, what: str) -> Context:
    if context is None:
        raise CompressionError(f"{what} needs training data, and there is none here")
    return context


def training_of(asked: contract.Training) -> Training:
    return Training(
        epochs=asked.epochs,
        lr=asked.lr,
        batch_size=asked.batch_size,
        optimizer=asked.optimizer,  # type: ignore[arg-type]  # the loop says which there are
        momentum=asked.momentum,
        weight_decay=asked.weight_decay,
        schedule=asked.schedule,  # type: ignore[arg-type]
    )


def soft_of(asked: contract.Training, context: Context) -> Soft:
    return Soft(alpha=asked.teacher, temperature=asked.temperature, kind=kind_of(context))


def kind_of(context: Context) -> Kind:
    """Classes where outputs [N, C] meet targets that are whole numbers, else values."""
    inputs, targets = context.material.calibration(rows=1)[0]
    with torch.no_grad():
        outputs = context.teacher(inputs)
    classes = not targets.is_floating_point() and outputs.dim() == 2 and outputs.shape[1] > 1
    return "Classes" if classes else "Values"


def train(
    asked: contract.Training,
    draft: Draft,
    context: Context,
    *,
    label: str,
    after_step: Callable[[int], None] | None = None,
) -> None:
    """Trains the draft's module in place; what masks took stays 0."""
    held = hold(draft.module, draft.masks) if draft.masks and after_step is None else after_step
    soft = soft_of(asked, context)
    distill(draft.module, context, training_of(asked), soft=soft, label=label, after_step=held)


def names_of(module: nn.Module) -> list[str]:
    """The weights that have a compressed form. Raises CompressionError when there is none."""
    selection = select(module)
    if not selection.layers:
        told = [f"{name}: {reason}" for name, reason in list(selection.kept.items())[:3]]
        reasons = "; ".join(told) or "it has no weight with two dimensions or more"
        raise CompressionError(f"the model has no weight that can be compressed: {reasons}")
    return list(selection.layers)
