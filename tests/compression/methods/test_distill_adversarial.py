"""Adversarial distillation: the attack's bounds, and what a student gains by it. Not: the soft loss (test_distill_simple)."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from modelmill.compress.distill import adversarial, simple
from modelmill.compress.distill.adversarial import Adversarial, Attack, perturb
from modelmill.compress.distill.simple import Soft
from modelmill.compress.distill.soft import soft_loss
from modelmill.compress.errors import CompressionError
from modelmill.compress.tune import Training, task_loss, tune
from tests.compression.methods.taught import Rows, blobs, context, mlp

EPSILON = 0.4
TRAINING = Training(epochs=6, lr=0.02, batch_size=32)


@given(st.floats(0.01, 1), st.integers(1, 4), st.booleans(), st.integers(0, 50))
@settings(max_examples=15)
def test_changed_inputs_stay_within_epsilon_and_the_range(epsilon: float, steps: int, random_start: bool, seed: int) -> None:
    inputs = torch.rand(4, 3, generator=torch.Generator().manual_seed(seed))
    attack = Attack(epsilon=epsilon, steps=steps, random_start=random_start)
    changed = perturb(inputs, attack=attack, objective=lambda x: x.square().sum(), low=0, high=1)
    assert float((changed - inputs).abs().max()) <= epsilon + 1e-6
    assert float(changed.min()) >= 0 and float(changed.max()) <= 1


def test_one_step_is_the_fast_gradient_sign_method_and_more_steps_go_further_up() -> None:
    inputs = torch.tensor([[1.0, -2.0, 0.5]])
    found = perturb(inputs, attack=Attack(epsilon=0.25), objective=lambda x: x.square().sum())
    assert torch.equal(found, torch.tensor([[1.25, -2.25, 0.75]]))

    def bent(x: torch.Tensor) -> torch.Tensor:
        return -(x - 1.1).square().sum()

    once = perturb(inputs, attack=Attack(epsilon=0.25), objective=bent)
    often = perturb(inputs, attack=Attack(epsilon=0.25, steps=10), objective=bent)
    assert float(bent(often)) > float(bent(once))


def test_whole_numbers_are_refused_with_the_reason() -> None:
    with pytest.raises(CompressionError, match=r"the inputs are torch.int64; a small change means nothing for whole numbers"):
        perturb(torch.zeros(2, 2, dtype=torch.int64), attack=Attack(epsilon=1), objective=lambda x: x.sum())


@pytest.mark.parametrize("wrong", [{"epsilon": 0.0}, {"epsilon": 1.0, "steps": 0}, {"epsilon": 1.0, "step_size": -1.0}])
def test_an_attack_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(CompressionError, match=r"attack\."):
        Attack(**wrong)  # type: ignore[arg-type]


def teacher_of(material: Rows) -> nn.Module:
    teacher, job = mlp(hidden=48, seed=3), context(material)
    tune(teacher, job, TRAINING, loss=task_loss(job), label="teacher")
    return teacher


def attacked(module: nn.Module, held: Rows) -> torch.Tensor:
    def objective(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(module(x), held.targets)

    return perturb(held.inputs, attack=Attack(epsilon=EPSILON), objective=objective)


def right_under_attack(module: nn.Module, held: Rows) -> float:
    with torch.no_grad():
        return float((module(attacked(module, held)).argmax(dim=1) == held.targets).float().mean())


def test_a_student_of_adversarial_examples_knows_its_teachers_boundary_better_than_one_of_plain_rows() -> None:
    material, held = blobs(), blobs(seed=5)
    teacher = teacher_of(material)
    job = context(material, teacher=teacher)
    plain, taught = mlp(seed=7), mlp(seed=7)
    simple.distill(plain, job, TRAINING, soft=Soft(alpha=1.0))
    adversarial.distill(taught, job, TRAINING, soft=Soft(alpha=1.0), adversarial=Adversarial(attack=Attack(epsilon=EPSILON)))
    examples = attacked(teacher, held)
    with torch.no_grad():
        off = [float(soft_loss(one(examples), teacher(examples), kind="Classes")) for one in (plain, taught)]
    assert off[1] < 0.8 * off[0]


def test_a_student_that_is_attacked_itself_becomes_more_robust_than_a_plain_one() -> None:
    material, held = blobs(), blobs(seed=5)
    job = context(material, teacher=teacher_of(material))
    plain, robust = mlp(seed=7), mlp(seed=7)
    simple.distill(plain, job, TRAINING, soft=Soft())
    attack = Attack(epsilon=EPSILON, steps=2, random_start=True)
    settings = Adversarial(attack=attack, against="Student", soft_at="Clean", share=1.0)
    adversarial.distill(robust, job, TRAINING, soft=Soft(), adversarial=settings)
    assert right_under_attack(robust, held) > right_under_attack(plain, held) + 0.02
