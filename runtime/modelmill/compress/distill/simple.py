"""Simple distillation: the student learns the teacher's soft answers and the true targets together.

    loss = alpha * soft(student(x), teacher(x)) + (1 - alpha) * task(student(x), y)

`soft` is the divergence at a temperature (`soft.py`), `task` the recipe's own loss. With alpha 1 the targets are not used.
The student begins with what fits of the teacher (`initialise`), which is what makes it short: fine-tuning, not training anew.
Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network".
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from modelmill.compress.distill.soft import Kind, asked, soft_loss
from modelmill.compress.draft import Context
from modelmill.compress.errors import CompressionError
from modelmill.compress.tune import Loss, Training, task_loss, tune


@dataclass(frozen=True, slots=True, kw_only=True)
class Soft:
    """How much of the soft answers, and how soft."""

    alpha: float = 0.9
    temperature: float = 4.0
    kind: Kind = "Classes"

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise CompressionError(f"distillation alpha: {self.alpha} must be from 0 to 1")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise CompressionError(f"distillation temperature: {self.temperature} must be above 0")

    def mix(self, answers: torch.Tensor, taught: torch.Tensor, targets: torch.Tensor, context: Context) -> torch.Tensor:
        """The loss above, from the outputs of the student (`answers`) and of the teacher (`taught`)."""
        value = answers.new_zeros(())
        if self.alpha > 0:
            value = self.alpha * soft_loss(answers, taught, kind=self.kind, temperature=self.temperature)
        if self.alpha < 1:
            value = value + (1 - self.alpha) * context.recipe.loss(answers, targets)
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    names: tuple[str, ...]
    left: dict[str, str]
    """Name of a tensor of the student that stayed fresh -> why."""


def initialise(student: nn.Module, teacher: nn.Module) -> Copied:
    """Copies the tensors of the teacher (buffers too) whose name, shape and dtype the student has, and tells which it did not."""
    source, copied, left = teacher.state_dict(), [], {}
    with torch.no_grad():
        for name, tensor in student.state_dict().items():
            given = source.get(name)
            if given is None:
                left[name] = "the teacher has none of this name"
            elif given.shape != tensor.shape or given.dtype != tensor.dtype:
                left[name] = f"{tensor.dtype} {list(tensor.shape)}, the teacher's is {given.dtype} {list(given.shape)}"
            else:
                tensor.copy_(given)
                copied.append(name)
    return Copied(names=tuple(copied), left=left)


def distill(
    student: nn.Module,
    context: Context,
    training: Training,
    *,
    soft: Soft,
    label: str = "distill",
    after_step: Callable[[int], None] | None = None,
) -> list[float]:
    """Trains the student in place on the material; returns the loss of each step. The teacher is `context.teacher`,
    who is not asked with alpha 0."""
    if soft.alpha == 0:
        return tune(student, context, training, loss=task_loss(context), label=label, after_step=after_step)
    with asked(context.teacher) as teacher:
        return tune(student, context, training, loss=soft_task(teacher, context, soft), label=label, after_step=after_step)


def soft_task(teacher: nn.Module, context: Context, soft: Soft) -> Loss:
    def loss(module: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            taught = teacher(inputs)
        return soft.mix(module(inputs), taught, targets, context)

    return loss
