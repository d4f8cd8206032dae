"""Adversarial distillation: the student learns the teacher's answers where a small change of the input fools the teacher.

There the teacher's decision boundary is close, so its soft answers tell most about it (Heo et al. 2019, "Knowledge Distillation
with Adversarial Samples Supporting Decision Boundary"). With x' = x + d, every |d| <= epsilon:

    loss = (1 - share) * simple(x, y) + share * (alpha * soft(student(x'), teacher(s)) + (1 - alpha) * task(student(x'), y))

x' is found by projected gradient ascent (Madry et al. 2018), each step by `step_size` along the sign of the gradient; with one
step of epsilon and no random start it is the fast gradient sign method (Goodfellow et al. 2015). What ascends:

    against Teacher: the task's loss of the teacher's answer.   against Student: soft(student(x'), teacher(x)).

s is x' (`soft_at` Perturbed, the default) or x (Clean). Against Student with Clean answers is "Adversarially Robust Distillation"
(Goldblum et al. 2020): the student is to answer a neighbour of x as the teacher answers x, which makes it robust itself; a
teacher that is not robust teaches no robustness by its answers at x'. Give that attack a random start: where the student
answers x exactly as its teacher there is no slope to follow.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from modelmill.compress.distill.simple import Soft
from modelmill.compress.distill.soft import asked, soft_loss
from modelmill.compress.draft import Context
from modelmill.compress.errors import CompressionError
from modelmill.compress.tune import Training, tune

RANGE_ROWS = 256
"""Calibration rows that tell the range of inputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """Which change of an input is looked for, in units of the inputs."""

    epsilon: float
    steps: int = 1
    step_size: float | None = None
    """None: epsilon for one step, 2.5 * epsilon / steps for several, so that the border can be reached from inside."""
    random_start: bool = False
    """Begin somewhere in the box of epsilon, instead of at the input."""

    def __post_init__(self) -> None:
        for name, value in (("epsilon", self.epsilon), ("step_size", self.step_size)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise CompressionError(f"attack.{name}: {value} must be above 0")
        if self.steps < 1:
            raise CompressionError(f"attack.steps: {self.steps} must be at least 1")

    @property
    def pace(self) -> float:
        if self.step_size is not None:
            return self.step_size
        return self.epsilon if self.steps == 1 else 2.5 * self.epsilon / self.steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Adversarial:
    attack: Attack
    against: Literal["Teacher", "Student"] = "Teacher"
    soft_at: Literal["Perturbed", "Clean"] = "Perturbed"
    share: float = 0.5
    """Of the loss on changed inputs; the rest is on the inputs as they are."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise CompressionError(f"adversarial share: {self.share} must be above 0 and at most 1")


def perturb(
    inputs: torch.Tensor,
    *,
    attack: Attack,
    objective: Callable[[torch.Tensor], torch.Tensor],
    low: float = -math.inf,
    high: float = math.inf,
) -> torch.Tensor:
    """Inputs of the same shape, none farther than epsilon or outside [low, high], for which `objective` is larger."""
    if not inputs.is_floating_point():
        raise CompressionError(
            f"adversarial distillation: the inputs are {inputs.dtype}; a small change means nothing for whole numbers such as "
            "tokens; use simple or simulated distillation"
        )
    nearest, farthest = (inputs - attack.epsilon).clamp_min(low), (inputs + attack.epsilon).clamp_max(high)
    found = inputs.detach().clone()
    if attack.random_start:
        found += torch.empty_like(found).uniform_(-attack.epsilon, attack.epsilon)
    for _ in range(attack.steps):
        found = found.clamp(nearest, farthest).detach().requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(objective(found), found)
        found = found.detach() + attack.pace * slope.sign()
    return found.clamp(nearest, farthest).detach()


def distill(
    student: nn.Module,
    context: Context,
    training: Training,
    *,
    soft: Soft,
    adversarial: Adversarial,
    label: str = "adversarial distillation",
    after_step: Callable[[int], None] | None = None,
) -> list[float]:
    """Trains the student in place; returns the loss of each step.

    Changed inputs stay in the range of the calibration rows. CompressionError when the inputs are not of floating point.
    """
    low, high = _range(context)
    share, attack = adversarial.share, adversarial.attack

    def loss(module: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            clean = teacher(inputs)

        def objective(changed: torch.Tensor) -> torch.Tensor:
            if adversarial.against == "Teacher":
                return context.recipe.loss(teacher(changed), targets)
            return soft_loss(module(changed), clean, kind=soft.kind)

        changed = _attacked(module, inputs, attack, objective, low=low, high=high)
        with torch.no_grad():
            taught = teacher(changed) if adversarial.soft_at == "Perturbed" else clean
        value = share * soft.mix(module(changed), taught, targets, context)
        if share < 1:
            value = value + (1 - share) * soft.mix(module(inputs), clean, targets, context)
        return value

    with asked(context.teacher) as teacher:
        return tune(student, context, training, loss=loss, label=label, after_step=after_step)


def _attacked(
    module: nn.Module,
    inputs: torch.Tensor,
    attack: Attack,
    objective: Callable[[torch.Tensor], torch.Tensor],
    *,
    low: float,
    high: float,
) -> torch.Tensor:
    # In inference mode: an attack must not move the running statistics of the student's batch norms.
    with asked(module):
        return perturb(inputs, attack=attack, objective=objective, low=low, high=high)


def _range(context: Context) -> tuple[float, float]:
    inputs = [inputs for inputs, _ in context.material.calibration(rows=RANGE_ROWS)]
    if not inputs:
        raise CompressionError("adversarial distillation: there are no calibration rows to tell the range of the inputs")
    return min(float(part.min()) for part in inputs), max(float(part.max()) for part in inputs)
