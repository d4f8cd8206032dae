"""Simulated distillation: the models of the inputs, and a student that saw no row and no target."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from modelmill.compress.distill.inputs import model_of
from modelmill.compress.distill.simple import Soft
from modelmill.compress.distill.simulated import SimulatedRows, Simulation, distill
from modelmill.compress.distill.soft import divergence
from modelmill.compress.draft import Mask
from modelmill.compress.errors import CompressionError
from modelmill.compress.tune import Training, hold, task_loss, tune
from tests.compression.methods.taught import Rows, Untaught, blobs, context, mlp, right

SMALL = Simulation(sets=3, rows=512, calibration_rows=256, components=8)
TRAINING = Training(epochs=5, lr=0.02, batch_size=32)


def drawn(inputs: torch.Tensor, *, rows: int = 2000, temperature: float = 1.0, seed: int = 0) -> torch.Tensor:
    return model_of(inputs, components=8).draw(rows, generator=torch.Generator().manual_seed(seed), temperature=temperature)


def test_drawn_inputs_have_the_mean_and_the_covariance_of_the_rows() -> None:
    mixing = torch.randn(12, 12, generator=torch.Generator().manual_seed(1))
    inputs = torch.randn(400, 12, generator=torch.Generator().manual_seed(2)) @ mixing
    found = drawn(inputs, rows=8000, temperature=1.01)
    wanted = torch.cov(inputs.T)
    assert float((found.mean(dim=0) - inputs.mean(dim=0)).abs().max()) < 0.2
    assert float((torch.cov(found.T) - wanted).norm() / wanted.norm()) < 0.15
    assert float((torch.cov(found.T).diag() / wanted.diag() - 1).abs().max()) < 0.15


@given(st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.uint8]), st.floats(0.3, 3), st.integers(0, 20))
@settings(max_examples=20)
def test_drawn_inputs_keep_shape_dtype_and_range(dtype: torch.dtype, temperature: float, seed: int) -> None:
    inputs = (torch.rand(9, 2, 3, generator=torch.Generator().manual_seed(seed)) * 9).to(dtype)
    found = drawn(inputs, rows=5, temperature=temperature)
    assert found.shape == (5, 2, 3)
    assert found.dtype == dtype
    assert bool(found.min() >= inputs.min()) and bool(found.max() <= inputs.max())
    assert torch.equal(found, drawn(inputs, rows=5, temperature=temperature))


def test_a_higher_temperature_spreads_further() -> None:
    inputs = torch.randn(200, 6, generator=torch.Generator().manual_seed(1))
    assert float(drawn(inputs, temperature=1.5).std()) > 1.2 * float(drawn(inputs, temperature=0.8).std())
    tokens = torch.tensor([[0]] * 9 + [[1]])
    assert float((drawn(tokens, temperature=4) == 1).float().mean()) > 0.3
    assert float((drawn(tokens, temperature=0.5) == 1).float().mean()) < 0.05


def test_tokens_follow_one_another_as_they_did_in_the_rows() -> None:
    first = torch.arange(200) % 4
    found = drawn(torch.stack([first, 10 + first], dim=1))
    assert float((found[:, 1] == found[:, 0] + 10).float().mean()) > 0.85
    assert set(found[:, 1].tolist()) == {10, 11, 12, 13}


def test_a_data_set_has_the_same_rows_in_every_epoch_and_other_seeds_give_other_rows() -> None:
    model = model_of(blobs().inputs, components=4)
    one = SimulatedRows(model=model, count=70, seed=1, temperature=1.0)
    other = SimulatedRows(model=model, count=70, seed=2, temperature=1.0)

    def rows(material: SimulatedRows, *, epoch: int) -> torch.Tensor:
        return torch.cat([inputs for inputs, _ in material.batches(epoch=epoch, batch_size=32)]).sort(dim=0).values

    assert len(rows(one, epoch=0)) == 70
    assert torch.equal(rows(one, epoch=0), rows(one, epoch=1))
    assert not torch.equal(rows(one, epoch=0), rows(other, epoch=0))


def teacher_of(material: Rows) -> nn.Module:
    teacher, job = mlp(hidden=48, seed=3), context(material)
    tune(teacher, job, TRAINING, loss=task_loss(job), label="teacher")
    return teacher


def test_a_student_learns_from_made_up_rows_without_targets_and_the_nearest_of_several_is_kept() -> None:
    material, held = blobs(), blobs(seed=5)
    teacher, student = teacher_of(material), mlp(seed=7)
    job = context(material, teacher=teacher, recipe=Untaught())
    far = divergence(student, teacher, held.calibration(rows=512), kind="Classes")
    attempts = distill(student, job, TRAINING, soft=Soft(), simulation=SMALL)
    assert divergence(student, teacher, held.calibration(rows=512), kind="Classes") < far / 5
    assert right(student, held) > 0.85
    assert [attempt.temperature for attempt in attempts] == [1.0, 1.5, 1 / 1.5]
    kept = [attempt for attempt in attempts if attempt.kept]
    assert len(kept) == 1
    assert kept[0].divergence == min(attempt.divergence for attempt in attempts)
    back = [(material.inputs[:256][3::4], material.targets[:256][3::4])]
    assert divergence(student, teacher, back, kind="Classes") == pytest.approx(kept[0].divergence, rel=1e-4)


def test_masks_are_held_in_every_attempt() -> None:
    material, student = blobs(rows=64), mlp(seed=7)
    masks = {"0.weight": Mask(kept=torch.rand(16, 8, generator=torch.Generator().manual_seed(0)) > 0.5)}
    small = Simulation(sets=2, rows=64, calibration_rows=32)
    distill(student, context(material), Training(), soft=Soft(), simulation=small, prepare=lambda: hold(student, masks))
    assert not bool(student.state_dict()["0.weight"][~masks["0.weight"].kept].any())


def test_too_few_rows_and_rows_of_different_shapes_are_refused() -> None:
    with pytest.raises(CompressionError, match="7 calibration rows; at least 8"):
        distill(mlp(), context(blobs(rows=7)), TRAINING, soft=Soft(), simulation=SMALL)

    class Ragged(Rows):
        def calibration(self, *, rows: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
            return [(torch.zeros(4, width), torch.zeros(4)) for width in (3, 4)]

    with pytest.raises(CompressionError, match="differ in shape"):
        distill(mlp(), context(Ragged(torch.zeros(4, 3), torch.zeros(4))), TRAINING, soft=Soft(), simulation=SMALL)
