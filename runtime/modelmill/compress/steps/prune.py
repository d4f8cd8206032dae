"""Pruning: of weights by masks, before or while training, and of whole channels."""

import math
from collections.abc import Callable, Iterator

import torch

from modelmill.compress.draft import HEIGHTS, Context, Draft, Mask, Pattern
from modelmill.compress.errors import CompressionError
from modelmill.compress.prune import blocks, gradient, masks, n_of_m, threshold, wanda
from modelmill.compress.prune.online.adagrad import AdaGrad
from modelmill.compress.prune.online.base import Online
from modelmill.compress.prune.online.binary import BinaryMask
from modelmill.compress.prune.online.structured import Structured
from modelmill.compress.prune.schedules import Constant, Cubic, Linear, Schedule
from modelmill.compress.steps import channels
from modelmill.compress.steps.training import CALIBRATION_ROWS, names_of, needed, train, training_of
from modelmill.contract.steps import Prune, Training

GROWING = 0.7
"""Part of the training in which the sparsity grows; the rest settles the weights."""


def run(step: Prune, draft: Draft, context: Context | None) -> None:
    if step.method in ("Channels", "Heads"):
        channels.run(step, draft, needed(context, f"prune with {step.method}"))
        return
    names = names_of(draft.module)
    if step.method in ("LearnedMask", "AdaGrad"):
        assert step.training is not None, "plan.check has seen to it"
        found = _online(step, step.training, names, draft, needed(context, f"prune with {step.method}"))
    else:
        found = _at_once(step, names, draft, context)
    for name, kept in found.items():
        earlier = draft.masks.get(name)
        draft.masks[name] = Mask(kept=kept & earlier.kept if earlier else kept, pattern=_pattern(step))
    if step.training is not None and step.method not in ("LearnedMask", "AdaGrad"):
        train(step.training, draft, needed(context, "prune.training"), label="prune")


def _pattern(step: Prune) -> Pattern:
    if step.pattern in ("Unstructured", "16x1", "4x1", "2:4"):
        return step.pattern  # type: ignore[return-value]  # one of them
    raise CompressionError(f"prune.pattern: {step.pattern!r} is not known; use Unstructured, 16x1, 4x1 or 2:4")


def _at_once(step: Prune, names: list[str], draft: Draft, context: Context | None) -> dict[str, torch.Tensor]:
    weights = {name: draft.module.get_parameter(name).detach() for name in names}
    if step.method == "Threshold":
        return {name: threshold.mask(weight, threshold=step.threshold or 0.0) for name, weight in weights.items()}
    sparsity = step.sparsity or 0.0
    scores = _scores(step, weights, draft, context)
    if step.pattern == "2:4":
        fitting = {name: weight for name, weight in weights.items() if weight[0].numel() % 4 == 0}
        draft.notes.extend(f"{name}: no 2:4, its inputs are no multiple of 4" for name in weights if name not in fitting)
        return {name: n_of_m.mask(weight, scores=scores[name]) for name, weight in fitting.items()}
    if step.pattern in HEIGHTS:
        height = HEIGHTS[step.pattern]
        return {name: blocks.mask(weights[name], height=height, sparsity=sparsity, scores=scores[name]) for name in names}
    if step.method == "Wanda":  # compared within a row, never across
        return {name: _by_rows(scores[name], sparsity) for name in names}
    return masks.masks_of(scores, sparsity=sparsity, scope=_scope(step))


def _by_rows(scores: torch.Tensor, sparsity: float) -> torch.Tensor:
    rows = scores.flatten(1)
    return masks.largest_of_rows(rows, keep=masks.kept_count(rows.shape[1], sparsity=sparsity)).view(scores.shape)


def _scores(step: Prune, weights: dict[str, torch.Tensor], draft: Draft, context: Context | None) -> dict[str, torch.Tensor]:
    if step.method == "Magnitude":
        return {name: weight.abs() for name, weight in weights.items()}
    material = needed(context, f"prune with {step.method}").material
    batches = material.calibration(rows=CALIBRATION_ROWS)
    if step.method == "Wanda":
        norms = wanda.InputNorms({name: draft.module.get_submodule(name.rpartition(".")[0]) for name in weights})
        with norms.gathering(), torch.no_grad():
            for inputs, _ in batches:
                draft.module(inputs)
        return {name: wanda.scores(weight, norms.norms(name)) for name, weight in weights.items()}
    if step.method != "Gradient":
        raise CompressionError(
            f"prune.method: {step.method!r} is not known; "
            "use Threshold, Magnitude, Gradient, Wanda, Channels, Heads, LearnedMask or AdaGrad"
        )
    leaves = {name: draft.module.get_parameter(name).requires_grad_(True) for name in weights}
    recipe = needed(context, "prune with Gradient").recipe
    losses: Iterator[Callable[[], torch.Tensor] | torch.Tensor] = (
        recipe.loss(draft.module(inputs), targets) for inputs, targets in batches
    )
    scores = gradient.scores(leaves, losses)
    draft.module.requires_grad_(False)
    return scores


def _online(step: Prune, training: Training, names: list[str], draft: Draft, context: Context) -> dict[str, torch.Tensor]:
    total = training_of(training).steps(rows=context.material.rows())
    schedule = _schedule(step, total)
    online: Online
    if step.method == "AdaGrad":
        height = HEIGHTS.get(step.pattern, 1)
        online = AdaGrad(draft.module, names, schedule=schedule, scope=_scope(step), height=height)
    elif step.pattern in HEIGHTS:
        online = Structured(draft.module, names, schedule=schedule, scope=_scope(step), height=HEIGHTS[step.pattern])
    else:
        online = BinaryMask(draft.module, names, schedule=schedule, scope=_scope(step))
    # Earlier masks are met at the end: until then the weights below are free.
    train(training, draft, context, label=f"prune with {step.method}", after_step=lambda _: online.step())
    return online.finish()


def _scope(step: Prune) -> masks.Scope:
    if step.scope == "Layer":
        return "Layer"
    if step.scope != "Global":
        raise CompressionError(f"prune.scope: {step.scope!r} is not known; use Global or Layer")
    return "Global"


def _schedule(step: Prune, total: int) -> Schedule:
    end, target = max(1, math.floor(total * GROWING)), step.sparsity or 0.0
    if step.schedule == "Constant":
        return Constant(target=target)
    return Linear(target=target, end=end) if step.schedule == "Linear" else Cubic(target=target, end=end)
