"""The training loop: what it learns, how it ends, what it refuses, what it leaves behind. Not: the losses of distillation."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from modelmill.compress import tune as tuning
from modelmill.compress.draft import Mask
from modelmill.compress.errors import CompressionError
from modelmill.compress.tune import Training, hold, rate, settle_norms, task_loss, tune
from tests.compression.methods.taught import CLASSES, Rows, blobs, context, mlp, right

SHORT = Training(epochs=4, lr=0.05, batch_size=32)


def trained(module: nn.Module, material: Rows, training: Training = SHORT) -> list[float]:
    job = context(material)
    return tune(module, job, training, loss=task_loss(job), label="test")


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_a_module_learns_its_task(optimizer: tuning.Optimizer) -> None:
    module, held = mlp(), blobs(seed=5)
    before = right(module, held)
    history = trained(module, blobs(), Training(epochs=4, lr=0.02, batch_size=32, optimizer=optimizer))
    assert len(history) == 64
    assert history[-1] < history[0] / 2
    assert right(module, held) > max(0.85, before + 0.2)


def test_the_same_seed_gives_the_same_weights_and_leaves_the_callers_generator_alone() -> None:
    one, two = (nn.Sequential(mlp(), nn.Dropout(0.5)) for _ in range(2))
    trained(one, blobs())
    job, before = context(blobs()), torch.manual_seed(123).get_state()
    tune(two, job, SHORT, loss=task_loss(job), label="test")
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_masked_weights_stay_zero_and_the_others_move() -> None:
    module = mlp()
    kept = torch.rand(16, 8) > 0.5
    after = hold(module, {"0.weight": Mask(kept=kept)})
    assert not bool(module.state_dict()["0.weight"][~kept].any())
    job, seen = context(blobs()), list[int]()

    def after_step(step: int) -> None:
        after(step)
        seen.append(step)
        assert not bool(module.state_dict()["0.weight"][~kept].any())

    begun = module.state_dict()["0.weight"].clone()
    tune(module, job, Training(epochs=1, lr=0.05, batch_size=64), loss=task_loss(job), label="test", after_step=after_step)
    assert seen == list(range(1, 9))
    assert bool((module.state_dict()["0.weight"] != begun)[kept].all())


def test_a_mask_for_another_shape_or_another_weight_is_refused() -> None:
    with pytest.raises(CompressionError, match=r"mask '0.weight': is for a weight \[3\], the module has \[16, 8\]"):
        hold(mlp(), {"0.weight": Mask(kept=torch.ones(3, dtype=torch.bool))})
    with pytest.raises(CompressionError, match=r"mask 'nine': .* no such weight"):
        hold(mlp(), {"nine": Mask(kept=torch.ones(3, dtype=torch.bool))})


def test_a_loss_that_is_not_finite_names_the_step_and_the_learning_rate() -> None:
    material = blobs()
    material.inputs[:] = float("nan")
    with pytest.raises(CompressionError, match=r"test: the loss is nan at step 1 with a learning rate of 0.002"):
        trained(mlp(), material)


def test_frozen_norms_keep_their_statistics_and_others_follow_the_data() -> None:
    frozen, moving = mlp(), mlp()
    trained(frozen, blobs(), Training(epochs=1, batch_size=64, freeze_norms=True))
    trained(moving, blobs(), Training(epochs=1, batch_size=64))
    assert torch.equal(frozen.state_dict()["1.running_mean"], torch.zeros(16))
    assert not torch.equal(moving.state_dict()["1.running_mean"], torch.zeros(16))
    assert not any(layer.training for layer in frozen.modules())


def test_a_loaded_module_is_trained_and_frozen_again_and_a_layer_frozen_on_purpose_stays() -> None:
    loaded = mlp().requires_grad_(False)
    before = loaded.state_dict()["0.weight"].clone()
    trained(loaded, blobs(), Training(max_steps=1))
    assert not torch.equal(before, loaded.state_dict()["0.weight"])
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    partly = mlp()
    partly.get_submodule("0").requires_grad_(False)
    before = partly.state_dict()["0.weight"].clone()
    trained(partly, blobs(), Training(max_steps=1))
    assert torch.equal(before, partly.state_dict()["0.weight"])


def test_clipped_gradients_move_weights_by_at_most_the_learning_rate_times_the_limit() -> None:
    module = mlp()
    before = [parameter.detach().clone() for parameter in module.parameters()]
    training = Training(max_steps=1, lr=0.1, clip=0.01, momentum=0.0, weight_decay=0.0, schedule="Constant")
    trained(module, blobs(), training)
    moved = math.sqrt(sum(float((a.detach() - b).square().sum()) for a, b in zip(module.parameters(), before, strict=True)))
    assert 0 < moved <= 0.1 * 0.01 * 1.001


def test_a_last_batch_of_one_row_is_left_out_where_batch_norm_could_not_take_it() -> None:
    assert len(trained(mlp(), blobs(rows=65), Training(epochs=2, batch_size=64))) == 4
    with pytest.raises(CompressionError, match="no batch of at least 2 rows"):
        trained(mlp(), blobs(rows=1))


@given(st.sampled_from(["OneCycle", "Cosine", "Constant"]), st.integers(1, 50))
@settings(max_examples=30)
def test_every_schedule_reaches_its_lr_and_stays_between_it_and_zero(schedule: tuning.Schedule, total: int) -> None:
    rates = [rate(Training(lr=0.5, schedule=schedule), step=step, total=total) for step in range(total)]
    assert max(rates) == pytest.approx(0.5)
    assert all(0 < one <= 0.5 + 1e-12 for one in rates)
    if schedule == "Cosine":
        assert rates == sorted(rates, reverse=True)
    if schedule == "OneCycle" and total >= 10:
        assert rates[0] == pytest.approx(0.5 / 25)
        assert rates[-1] < 0.5 / 10


def test_training_ends_after_epochs_or_steps_whichever_is_first() -> None:
    assert Training(epochs=0.5, batch_size=10).steps(rows=100) == 5
    assert Training(epochs=3, batch_size=30).steps(rows=100) == 12
    assert Training(epochs=3, batch_size=30, max_steps=7).steps(rows=100) == 7


@pytest.mark.parametrize(
    ("field", "value"), [("lr", 0.0), ("epochs", -1), ("batch_size", 0), ("lr", math.nan), ("momentum", 1.0)]
)
def test_a_setting_out_of_range_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(CompressionError, match=f"training.{field}: {value} must be"):
        Training(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("field", "value"), [("optimizer", "Adagrad"), ("schedule", "Step"), ("precision", "fp8")])
def test_a_name_that_is_not_known_is_refused_with_those_that_are(field: str, value: str) -> None:
    with pytest.raises(CompressionError, match=f"training.{field}: '{value}' is not one of "):
        Training(**{field: value})  # type: ignore[arg-type]


def test_progress_is_said_at_intervals_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    said = list[str]()
    job = context(blobs(), said=said)
    tune(mlp(), job, Training(epochs=1, batch_size=64), loss=task_loss(job), label="fine-tune")
    assert len(said) == 1
    assert said[0].startswith("fine-tune: step 8/8, loss ")
    monkeypatch.setattr(tuning, "SAY_SECONDS", 0.0)
    tune(mlp(), job, Training(epochs=1, batch_size=64), loss=task_loss(job), label="fine-tune")
    assert len(said) == 9
    assert "step 1/8" in said[1] and "rows/s" in said[1] and "s left" in said[1]


def test_settled_norms_have_the_statistics_of_the_batches() -> None:
    material = blobs(rows=128)
    norm = nn.BatchNorm1d(8)
    module = nn.Sequential(norm).eval()
    module.state_dict()["0.running_mean"].fill_(7)
    settle_norms(module, material.calibration(rows=128))
    assert torch.allclose(module.state_dict()["0.running_mean"], material.inputs.mean(dim=0), atol=1e-5)
    assert norm.momentum == 0.1
    assert not norm.training


class Convolved(nn.Module):
    """`flatten` takes any order of memory, `view` does not."""

    def __init__(self, *, view: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.last, self.view = nn.Conv2d(3, 4, 3), nn.Linear(36, CLASSES), view

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        out: torch.Tensor = self.last(y.view(len(y), -1) if self.view else y.flatten(1))
        return out


def orders(module: Convolved) -> list[bool]:
    """Whether the convolution's weight is channels last, at each step of a training."""
    seen: list[bool] = []
    job = context(Rows(torch.randn(64, 3, 5, 5), torch.randint(CLASSES, (64,))))

    def look(step: int) -> None:
        seen.append(module.conv.weight.is_contiguous(memory_format=torch.channels_last))

    tune(module, job, Training(epochs=1, lr=0.1, batch_size=32), loss=task_loss(job), label="test", after_step=look)
    return seen


def test_convolutions_are_channels_last_while_they_are_trained_and_as_before_afterwards() -> None:
    module = Convolved(view=False)
    weight, before = module.conv.weight, module.conv.weight.clone()
    assert orders(module) == [True, True]
    assert module.conv.weight is weight
    assert weight.is_contiguous()
    assert not torch.equal(weight, before)


def test_a_module_that_views_its_activations_is_trained_as_it_is() -> None:
    assert orders(Convolved(view=True)) == [False, False]
