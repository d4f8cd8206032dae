"""How far a student's answers are from its teacher's: the term that all methods of distillation share.

Classes: T^2 * KL(softmax(teacher / T) || softmax(student / T)), classes in dimension 1, the mean over everything else. T^2 keeps
the size of the gradient when T changes (Hinton et al. 2015). Values: the mean squared difference. Embeddings: 1 - cosine
along the last dimension, its mean; the length of an embedding does not matter.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from modelmill.compress.draft import Batch
from modelmill.compress.errors import CompressionError

Kind = Literal["Classes", "Values", "Embeddings"]
"""What the module's outputs are."""


def soft_loss(student: torch.Tensor, teacher: torch.Tensor, *, kind: Kind, temperature: float = 1.0) -> torch.Tensor:
    """The term for a batch of outputs [N, ...]; float32, at least 0, and 0 for equal outputs. Temperature is for Classes."""
    if student.shape != teacher.shape:
        raise CompressionError(
            f"distillation: the student answers {list(student.shape)}, the teacher {list(teacher.shape)}; "
            "they must have the same outputs"
        )
    student, teacher = student.float(), teacher.float()
    if kind == "Values":
        return functional.mse_loss(student, teacher)
    if kind == "Embeddings":
        return 1 - functional.cosine_similarity(student, teacher, dim=-1).mean()
    if student.dim() < 2:
        raise CompressionError(f"distillation: outputs {list(student.shape)} have no dimension of classes; use kind Values")
    expected, got = (torch.log_softmax(part / temperature, dim=1) for part in (teacher, student))
    divergence = functional.kl_div(got, expected, reduction="none", log_target=True).sum(dim=1)
    return divergence.mean() * temperature**2


@contextmanager
def asked(teacher: nn.Module) -> Iterator[nn.Module]:
    """The teacher in inference mode; its layers are in their former modes afterwards."""
    modes = [(layer, layer.training) for layer in teacher.modules()]
    teacher.eval()
    try:
        yield teacher
    finally:
        for layer, mode in modes:
            layer.training = mode


def divergence(student: nn.Module, teacher: nn.Module, batches: Iterable[Batch], *, kind: Kind) -> float:
    """The mean of `soft_loss` at temperature 1 over the rows of these batches; 0 is perfect agreement."""
    total, rows = 0.0, 0
    with asked(student), asked(teacher), torch.no_grad():
        device = next(student.parameters()).device
        for inputs, _ in batches:
            inputs = inputs.to(device)
            total += float(soft_loss(student(inputs), teacher(inputs), kind=kind)) * len(inputs)
            rows += len(inputs)
    if rows == 0:
        raise CompressionError("distillation: there are no calibration rows to compare student and teacher on")
    return total / rows
