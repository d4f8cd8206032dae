"""Simple distillation: the loss, the copy of what fits, and that a student comes nearer to its teacher."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from modelmill.compress.distill.simple import Soft, distill, initialise
from modelmill.compress.distill.soft import Kind, divergence, soft_loss
from modelmill.compress.errors import CompressionError
from modelmill.compress.tune import Training, task_loss, tune
from tests.compression.methods.taught import Untaught, blobs, context, mlp, right

KINDS: tuple[Kind, ...] = ("Classes", "Values", "Embeddings")


@given(st.sampled_from(KINDS), st.integers(0, 100), st.floats(0.5, 8))
@settings(max_examples=20)
def test_the_soft_loss_is_never_negative_and_zero_for_equal_answers(kind: Kind, seed: int, temperature: float) -> None:
    one, two = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(seed))
    assert float(soft_loss(one, two, kind=kind, temperature=temperature)) > 0
    assert float(soft_loss(one, one, kind=kind, temperature=temperature)) == pytest.approx(0, abs=1e-5)


def test_the_soft_loss_of_classes_is_hintons() -> None:
    student, teacher = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    expected, got = functional.softmax(teacher / 3, dim=1), functional.softmax(student / 3, dim=1)
    by_hand = 9 * (expected * (expected.log() - got.log())).sum() / 6
    assert torch.allclose(soft_loss(student, teacher, kind="Classes", temperature=3), by_hand)


def test_the_gradient_of_the_soft_loss_keeps_its_size_at_high_temperatures() -> None:
    teacher = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    norms = []
    for temperature in (20.0, 40.0):
        student = torch.zeros(8, 5, requires_grad=True)
        soft_loss(student, teacher, kind="Classes", temperature=temperature).backward()
        assert student.grad is not None
        norms.append(float(student.grad.norm()))
    assert norms[0] == pytest.approx(norms[1], rel=0.1)


def test_the_length_of_an_embedding_does_not_matter() -> None:
    one = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    assert float(soft_loss(one * 3, one, kind="Embeddings")) == pytest.approx(0, abs=1e-6)
    assert float(soft_loss(one * 3, one, kind="Values")) > 0.1


def test_a_student_with_other_outputs_is_refused() -> None:
    with pytest.raises(CompressionError, match=r"the student answers \[2, 3\], the teacher \[2, 4\]"):
        soft_loss(torch.zeros(2, 3), torch.zeros(2, 4), kind="Classes")


def teacher_of() -> nn.Module:
    teacher = mlp(hidden=48, seed=3)
    job = context(blobs())
    tune(teacher, job, Training(epochs=6, lr=0.05, batch_size=32), loss=task_loss(job), label="teacher")
    return teacher


def test_a_student_learns_its_teachers_answers_without_targets_and_leaves_the_teacher_alone() -> None:
    teacher = teacher_of()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student, held = mlp(seed=7), blobs(seed=5)
    job = context(blobs(), teacher=teacher, recipe=Untaught())
    far = divergence(student, teacher, held.calibration(rows=512), kind="Classes")
    distill(student, job, Training(epochs=6, lr=0.02, batch_size=32), soft=Soft(alpha=1.0))
    near = divergence(student, teacher, held.calibration(rows=512), kind="Classes")
    assert near < far / 10
    assert right(student, held) > 0.85
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_soft_answers_bring_a_student_nearer_to_its_teacher_than_targets_do() -> None:
    teacher, held = teacher_of(), blobs(seed=5).calibration(rows=512)
    taught, alone = mlp(seed=7), mlp(seed=7)
    training = Training(epochs=6, lr=0.02, batch_size=32)
    job = context(blobs(), teacher=teacher)
    distill(taught, job, training, soft=Soft(alpha=0.9))
    distill(alone, job, training, soft=Soft(alpha=0.0))
    assert divergence(taught, teacher, held, kind="Classes") < 0.7 * divergence(alone, teacher, held, kind="Classes")


def test_what_fits_of_the_teacher_is_copied_and_the_rest_is_told() -> None:
    teacher, student = mlp(hidden=16, seed=1), nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 2), nn.ReLU(), nn.Linear(3, 3))
    report = initialise(student, teacher)
    assert report.names == ("0.weight", "0.bias")
    assert torch.equal(student.state_dict()["0.weight"], teacher.state_dict()["0.weight"])
    assert report.left["1.weight"] == "torch.float32 [2, 16], the teacher's is torch.float32 [16]"
    assert set(report.left) == {"1.weight", "1.bias", "3.weight", "3.bias"}


def test_a_copied_student_of_the_same_shape_answers_as_its_teacher() -> None:
    teacher, student = teacher_of(), mlp(hidden=48, seed=9)
    assert initialise(student, teacher).left == {}
    assert divergence(student, teacher, blobs(seed=5).calibration(rows=64), kind="Classes") == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("alpha", "temperature", "field"), [(1.5, 1, "alpha"), (0.5, 0, "temperature")])
def test_a_setting_out_of_range_is_refused_by_name(alpha: float, temperature: float, field: str) -> None:
    with pytest.raises(CompressionError, match=f"distillation {field}"):
        Soft(alpha=alpha, temperature=temperature)
