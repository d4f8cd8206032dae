"""Simulated distillation: the student learns the teacher's answers to made-up inputs; no targets, few real rows.

There is no standard meaning of the term. Here it is:

1. The calibration rows are split: three quarters to model the inputs (`inputs.py`), one quarter held back.
2. `sets` data sets are drawn from the model, with seeds and temperatures of their own: 1, then alternately higher and lower.
   A temperature above 1 gives inputs farther from the usual ones, one below 1 gives more usual ones.
3. From the same start, one student is distilled on each, with the teacher's soft answers alone (alpha 1).
   Then its batch norms get the statistics of the real rows of step 1 (`settle_norms`).
4. The student whose answers are nearest to the teacher's on the held rows (`divergence`) is kept.
"""

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import nn

from modelmill.compress.distill.inputs import InputModel, model_of
from modelmill.compress.distill.simple import Soft
from modelmill.compress.distill.simple import distill as distill_simply
from modelmill.compress.distill.soft import divergence
from modelmill.compress.draft import Batch, Context
from modelmill.compress.errors import CompressionError
from modelmill.compress.tune import Training, settle_norms

_HELD_SHARE = 4
_SPREAD = 2654435761


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    sets: int = 3
    rows: int = 4096
    """In each data set."""
    calibration_rows: int = 512
    components: int = 64
    """Directions along which inputs of floating point vary together; at most the rows to model."""
    spread: float = 1.5
    """The temperatures are 1, spread, 1 / spread, spread^2, 1 / spread^2, ..."""

    def __post_init__(self) -> None:
        for name in ("sets", "rows", "calibration_rows", "components"):
            if getattr(self, name) < 1:
                raise CompressionError(f"simulation.{name}: {getattr(self, name)} must be at least 1")
        if not 1 <= self.spread <= 10:
            raise CompressionError(f"simulation.spread: {self.spread} must be from 1 to 10")

    def temperature(self, number: int) -> float:
        power = (number + 1) // 2
        return self.spread ** (power if number % 2 else -power)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What became of one data set."""

    temperature: float
    divergence: float
    """Of student and teacher on the held calibration rows; the smallest is kept."""
    history: list[float]
    kept: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRows:
    """Material that is drawn from a model of the inputs when asked for; the same seed draws the same rows in every epoch."""

    model: InputModel
    count: int
    seed: int
    temperature: float
    real: tuple[Batch, ...] = ()

    def batches(self, *, epoch: int, batch_size: int) -> Iterable[Batch]:
        """Batches with the same rows in every epoch, in another order; the targets are empty."""
        starts = torch.arange(0, self.count, batch_size)
        order = torch.randperm(len(starts), generator=torch.Generator().manual_seed(self.seed + epoch))
        for start in starts[order].tolist():
            rows = min(batch_size, self.count - start)
            # A product, not a shift: the generator reads the low 32 bits of its seed only.
            generator = torch.Generator().manual_seed(((self.seed + 1) * _SPREAD + start) % (1 << 32))
            yield self.model.draw(rows, generator=generator, temperature=self.temperature), torch.empty(rows, 0)

    def calibration(self, *, rows: int) -> list[Batch]:
        return list(self.real)

    def rows(self) -> int:
        return self.count


def distill(
    student: nn.Module,
    context: Context,
    training: Training,
    *,
    soft: Soft,
    simulation: Simulation,
    label: str = "simulated distillation",
    prepare: Callable[[], Callable[[int], None]] | None = None,
) -> list[Attempt]:
    """Trains the student in place as told above; returns what became of each data set. `soft.alpha` is taken as 1.

    `prepare` is called before each attempt and gives its `after_step`, such as `lambda: hold(student, masks)`.
    CompressionError with fewer than 8 calibration rows, and with rows that differ in shape.
    """
    batches = context.material.calibration(rows=simulation.calibration_rows)
    seen, held = _split(batches)
    model = model_of(seen, components=simulation.components)
    real = tuple((part, torch.empty(len(part), 0)) for part in seen.split(32))
    start, best, attempts = deepcopy(student.state_dict()), student.state_dict(), list[Attempt]()
    for number in range(simulation.sets):
        student.load_state_dict(start)
        temperature = simulation.temperature(number)
        drawn = SimulatedRows(model=model, count=simulation.rows, seed=context.seed + number, temperature=temperature, real=real)
        history = distill_simply(
            student,
            replace(context, material=drawn),
            training,
            soft=replace(soft, alpha=1.0),
            label=f"{label} {number + 1}/{simulation.sets}",
            after_step=None if prepare is None else prepare(),
        )
        settle_norms(student, real)
        score = divergence(student, context.teacher, held, kind=soft.kind)
        context.say(f"{label}: data set {number + 1} at temperature {temperature:.2f}: divergence {score:.4g} on held rows")
        if all(score < attempt.divergence for attempt in attempts):
            best = deepcopy(student.state_dict())
        attempts.append(Attempt(temperature=temperature, divergence=score, history=history))
    student.load_state_dict(best)
    winner = min(attempts, key=lambda attempt: attempt.divergence)
    return [replace(attempt, kept=attempt is winner) for attempt in attempts]


def _split(batches: list[Batch]) -> tuple[torch.Tensor, list[Batch]]:
    """The rows to model, and batches of those held back."""
    if len({part.shape[1:] for part, _ in batches}) > 1:
        raise CompressionError("simulated distillation: the calibration rows differ in shape; pad them to one shape in dataset()")
    inputs = torch.cat([part for part, _ in batches]) if batches else torch.empty(0)
    if len(inputs) < 8:
        raise CompressionError(f"simulated distillation: {len(inputs)} calibration rows; at least 8 are needed")
    back = torch.arange(len(inputs)) % _HELD_SHARE == _HELD_SHARE - 1
    return inputs[~back], [(part, torch.empty(len(part), 0)) for part in inputs[back].split(32)]
