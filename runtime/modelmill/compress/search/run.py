"""The search, from a draft in floats to one whose every weight has the kind that was chosen for it."""

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from modelmill import kernels
from modelmill.compress import timing
from modelmill.compress.draft import Batch, Context, Draft, Material
from modelmill.compress.errors import CompressionError
from modelmill.compress.search import front, halving, knapsack
from modelmill.compress.search.figure import draw
from modelmill.compress.search.found import Candidate, Found, Measured, chosen, kinds_told
from modelmill.compress.search.kinds import DENSE
from modelmill.compress.search.knapsack import Point
from modelmill.compress.search.table import Table, left_out, options, tabulate, total
from modelmill.compress.search.trial import Trial, Trials
from modelmill.compress.state import tensors_of
from modelmill.compress.steps.training import CALIBRATION_ROWS, kind_of, names_of
from modelmill.contract.steps import Search

EVALUATION_ROWS = 2048
LATENCY_SECONDS = 10.0
"""CPU time for the latencies of all candidates together."""


def run(step: Search, draft: Draft, context: Context) -> None:
    """Puts the grids and masks of the best choice into the draft, and the front into its reports.

    Raises CompressionError where no kind costs less than dense, and where no candidate holds the budget."""
    names = names_of(draft.module)
    seen, unseen = split(context.material)
    table = tabulate(draft.module, names, seen, context.recipe)
    told = left_out(table, objective=step.objective, device=device())
    points = [point for point in knapsack.front(options(table, objective=step.objective)) if _compresses(point)]
    if not points:
        raise CompressionError(f"search: nothing costs less than dense: {'; '.join(told) or 'no layer is ever computed'}")
    with tempfile.TemporaryDirectory() as folder:
        trials = Trials(context.teacher, batches=unseen, recipe=context.recipe, answers=kind_of(context), folder=Path(folder))
        found = _evaluate(step, draft, table, points, trials, context)
    place = chosen(found)
    for name, kind in points[place].choice.items():
        table[name][kind].kind.put(draft, name)
    draft.notes += [*told, front.sentence(found, place)]
    account = front.account(found, place, table=table, device=device())
    draft.reports |= {"search.json": front.to_json(account), "search.png": draw(account)}


def split(material: Material) -> tuple[list[Batch], list[Batch]]:
    """Rows to predict on, and others to evaluate on: half of each where there are few."""
    batches = material.calibration(rows=CALIBRATION_ROWS + EVALUATION_ROWS)
    if len(batches) == 1:
        inputs, targets = batches[0]
        half = -(-len(inputs) // 2)
        return [(inputs[:half], targets[:half])], [(inputs[half:], targets[half:])]
    few, rows = 0, 0
    while few < len(batches) // 2 and rows < CALIBRATION_ROWS:
        rows += len(batches[few][0])
        few += 1
    return batches[:few], batches[few:]


def device() -> str:
    """What the figures hold for."""
    return f"this device ({kernels.status()['isa']}, one thread)"


def _same(module: nn.Module, other: nn.Module) -> bool:
    """Whether the steps before have changed nothing."""
    own, others = tensors_of(module), tensors_of(other)
    return own.keys() == others.keys() and all(torch.equal(tensor, others[name]) for name, tensor in own.items())


def _compresses(point: Point) -> bool:
    return any(kind != DENSE for kind in point.choice.values())


def _evaluate(step: Search, draft: Draft, table: Table, points: Sequence[Point], trials: Trials, context: Context) -> Found:
    start = trials.dense if _same(draft.module, context.teacher) else trials.trial(draft.module, {})
    if start.quality.drop > step.max_drop:
        raise CompressionError(
            f"search.maxDrop: the steps before lose {start.quality.drop:.4f} already, more than {step.max_drop:g}; "
            "raise maxDrop, or train longer in them"
        )
    made: dict[int, Trial] = {}

    def holds(place: int) -> bool:
        choice = points[place].choice
        stored = {name: table[name][kind].weight for name, kind in choice.items() if kind != DENSE}
        made[place] = trials.trial(draft.module, stored)
        drop = made[place].quality.drop
        context.say(f"search: candidate {place + 1} of {len(points)} ({kinds_told(choice)}): drop {drop:.4f}")
        return drop <= step.max_drop

    halving.bisect(len(points), evaluations=step.evaluations, holds=holds)
    timed = _timed([trials.dense, *made.values(), start], context.material)
    measured = {place: timed[trial] for place, trial in made.items()}
    return Found(
        step=step,
        rows=trials.rows,
        dense=timed[trials.dense],
        start=timed[start],
        candidates=_candidates(table, points, start=timed[start], measured=measured),
    )


def _candidates(table: Table, points: Sequence[Point], *, start: Measured, measured: Mapping[int, Measured]) -> list[Candidate]:
    """Predicted for each point: the start without what its layers save."""
    nothing = dict.fromkeys(table, DENSE)

    def saved(point: Point, objective: str) -> float:
        return total(table, nothing, objective=objective) - total(table, point.choice, objective=objective)

    return [
        Candidate(
            point=point,
            bytes=start.bytes - round(saved(point, "Size")),
            seconds=start.seconds - saved(point, "Latency"),
            measured=measured.get(place),
        )
        for place, point in enumerate(points)
    ]


def _timed(trials: Sequence[Trial], material: Material) -> dict[Trial, Measured]:
    """With the time of one row, measured in turn."""
    row = material.calibration(rows=1)[0][0][:1]
    different = list(dict.fromkeys(trials))
    times = timing.compare([partial(trial.module, row) for trial in different], seconds=LATENCY_SECONDS)
    return {
        trial: Measured(bytes=trial.bytes, seconds=seconds, quality=trial.quality)
        for trial, seconds in zip(different, times, strict=True)
    }
