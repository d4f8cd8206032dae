"""Masks that are trained: what is kept at each step, what gradients they get, and what is left when they are done."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from modelmill.compress.errors import CompressionError
from modelmill.compress.prune.masks import sparsity_of
from modelmill.compress.prune.online.adagrad import AdaGrad
from modelmill.compress.prune.online.base import Online
from modelmill.compress.prune.online.binary import BinaryMask
from modelmill.compress.prune.online.structured import Structured
from modelmill.compress.prune.schedules import Constant, Cubic, Linear, Schedule
from tests.unit.compress.models import conv_net, dense_net

NAMES = ("0.weight", "2.weight")
SCHEDULE = Cubic(target=0.75, end=6)
RULES: dict[str, Callable[[nn.Module], Online]] = {
    "binary": lambda module: BinaryMask(module, NAMES, schedule=SCHEDULE),
    "structured": lambda module: Structured(module, NAMES, schedule=SCHEDULE),
    "adagrad": lambda module: AdaGrad(module, NAMES, schedule=SCHEDULE),
    "adagrad blocks": lambda module: AdaGrad(module, NAMES, schedule=SCHEDULE, height=16, scope="Layer", every=4),
}


def _train(module: nn.Module, online: Online, *, steps: int = 8, rate: float = 0.5) -> list[float]:
    """Learns a function of the first eight inputs; the losses."""
    torch.manual_seed(1)
    x = torch.randn(64, 64)
    y = torch.stack([x[:, index].sign() for index in range(8)] + [torch.zeros(64)] * 2, 1)
    losses = []
    for _ in range(steps):
        module.zero_grad()
        loss = functional.mse_loss(module(x), y)
        loss.backward()
        with torch.no_grad():  # torch.optim takes seconds to import
            for parameter in module.parameters():
                assert parameter.grad is not None
                parameter.sub_(parameter.grad, alpha=rate)
        online.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("rule", RULES)
def test_training_prunes_to_the_target_and_still_learns(rule: str) -> None:
    module = dense_net()
    names = list(module.state_dict())
    online = RULES[rule](module)
    losses = _train(module, online, steps=12)
    x = torch.randn(4, 64)
    pruned = module(x)
    masks = online.finish()
    assert list(module.state_dict()) == names and type(module[0]) is nn.Linear
    assert losses[-1] < losses[0]
    assert torch.equal(module(x), pruned)
    assert sparsity_of(masks) == pytest.approx(0.75, abs=0.02)
    for name, mask in masks.items():
        assert not module.get_parameter(name)[~mask].any()
        assert bool(module.get_parameter(name)[mask].any())


@pytest.mark.parametrize("rule", ["structured", "adagrad blocks"])
def test_blocks_go_whole(rule: str) -> None:
    module = dense_net()
    online = RULES[rule](module)
    _train(module, online)
    for mask in online.finish().values():
        assert all(torch.equal(part.all(0), part.any(0)) for part in mask.split(16))


def test_a_variable_gets_the_gradient_of_its_weight_straight_through() -> None:
    module = nn.Sequential(nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        module.get_parameter("0.weight").copy_(torch.tensor([[1.0, -2.0, 0.0], [4.0, 1.0, 2.0]]))
    online = BinaryMask(module, ["0.weight"], schedule=Constant(target=0.5))
    (variable,) = online.variables()
    assert variable.tolist() == [[0.25, 0.5, 0.0], [1.0, 0.25, 0.5]]
    assert online.masks()["0.weight"].tolist() == [[False, True, False], [True, False, True]]
    x = torch.tensor([[1.0, 10.0, 100.0]])
    module(x).sum().backward()
    assert variable.grad is not None
    assert variable.grad.tolist() == [[1.0, -20.0, 0.0], [4.0, 10.0, 200.0]]
    weight = dict(module.named_parameters())["0.parametrizations.weight.original"]
    assert weight.grad is not None and weight.grad.tolist() == [[0.0, 10.0, 0.0], [1.0, 0.0, 100.0]]


def test_a_block_gets_the_sum_of_the_gradients_of_its_weights() -> None:
    module = nn.Sequential(nn.Linear(2, 5, bias=False))
    nn.init.ones_(module.get_parameter("0.weight"))
    online = Structured(module, ["0.weight"], penalty=0.01, height=4)
    (variable,) = online.variables()
    module(torch.tensor([[1.0, 2.0]])).sum().backward()
    assert variable.grad is not None and variable.grad.tolist() == [[4.0, 8.0], [1.0, 2.0]]


def test_a_penalty_drops_the_smallest_first_and_a_dropped_weight_can_come_back() -> None:
    module = nn.Sequential(nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        module.get_parameter("0.weight").copy_(torch.tensor([[0.1, 0.4, -0.6, 1.0]]))
    online = BinaryMask(module, ["0.weight"], penalty=0.25)
    (variable,) = online.variables()
    kept = []
    for _ in range(4):
        online.step()
        kept.append(int(online.masks()["0.weight"].sum()))
    assert kept == [3, 2, 1, 0]
    with torch.no_grad():
        variable[0, 0] = 0.9
    online.step()
    assert online.masks()["0.weight"].tolist() == [[True, False, False, False]]
    assert float(variable.detach().min()) >= -1


def test_a_weight_of_zeros_is_never_kept_by_a_penalty() -> None:
    module = nn.Sequential(nn.Linear(4, 4))
    nn.init.zeros_(module.get_parameter("0.weight"))
    assert not BinaryMask(module, ["0.weight"], penalty=0.1).finish()["0.weight"].any()


def test_accumulated_gradients_decide_where_magnitudes_are_equal() -> None:
    module = nn.Sequential(nn.Linear(4, 1, bias=False))
    nn.init.ones_(module.get_parameter("0.weight"))
    online = AdaGrad(module, ["0.weight"], schedule=Constant(target=0.5, begin=2))
    for gradient in ([3.0, 0.0, 0.1, 0.0], [0.0, 2.0, 0.1, 0.0]):
        module.get_parameter("0.weight").grad = torch.tensor([gradient])
        online.step()
    assert online.finish()["0.weight"].tolist() == [[True, True, False, False]]


def test_what_adagrad_dropped_stays_dropped() -> None:
    module, before = dense_net(), torch.zeros(0)
    online = AdaGrad(module, NAMES, schedule=Linear(target=0.9, end=20))
    for _ in range(5):
        _train(module, online, steps=4)
        mask = online.masks()["0.weight"]
        assert not before.numel() or not (mask & ~before).any()
        before = mask


def test_convolutions_are_pruned_too() -> None:
    module = conv_net()
    online = Structured(module, ["0.weight", "3.weight"], schedule=Constant(target=0.5))
    assert module(torch.randn(2, 3, 8, 8)).shape == (2, 10)
    assert {name: mask.shape for name, mask in online.finish().items()} == {"0.weight": (16, 3, 3, 3), "3.weight": (24, 16, 3, 3)}


schedules = st.builds(
    lambda kind, target, start, begin, steps: kind(target=target, start=target * start, begin=begin, end=begin + steps),
    st.sampled_from([Linear, Cubic]), st.floats(0, 1), st.floats(0, 1), st.integers(0, 10), st.integers(1, 30),
)  # fmt: skip


@given(schedules | st.builds(Constant, target=st.floats(0, 1), begin=st.integers(0, 20)))
def test_a_schedule_only_rises_and_ends_at_its_target(schedule: Schedule) -> None:
    values = [schedule.sparsity(step) for step in range(45)]
    assert values == sorted(values) or max(b - a for a, b in zip(values[1:], values, strict=False)) < 1e-12
    assert values[-1] == schedule.target and all(0 <= value <= 1 for value in values)
    assert all(value == 0 for value in values[: schedule.begin])


def test_the_cubic_schedule_is_that_of_its_paper() -> None:
    schedule = Cubic(target=0.8, start=0.2, begin=10, end=30)
    assert [schedule.sparsity(step) for step in (9, 10, 20, 30, 99)] == pytest.approx([0, 0.2, 0.8 - 0.6 / 8, 0.8, 0.8])


def test_wrong_numbers_and_names_are_refused() -> None:
    for wrong, message in (
        (lambda: BinaryMask(dense_net(), NAMES), "schedule, or a penalty"),
        (lambda: BinaryMask(dense_net(), NAMES, schedule=SCHEDULE, penalty=1.0), "not both"),
        (lambda: BinaryMask(dense_net(), NAMES, penalty=math.nan), "nan"),
        (lambda: BinaryMask(dense_net(), [], penalty=1.0), "at least one weight"),
        (lambda: Structured(dense_net(), NAMES, penalty=1.0, height=0), "height 0"),
        (lambda: AdaGrad(dense_net(), ["0.bias"], schedule=SCHEDULE), "has 1 dimensions"),
        (lambda: AdaGrad(dense_net(), ["9.weight"], schedule=SCHEDULE), "no such parameter"),
        (lambda: AdaGrad(dense_net(), NAMES, schedule=SCHEDULE, every=0), "every 0"),
        (lambda: AdaGrad(dense_net(), NAMES, schedule=SCHEDULE).step(), "before gradients are cleared"),
        (lambda: Cubic(target=1.2, end=3), r"target 1\.2"),
        (lambda: Linear(target=0.5, start=0.6, end=3), "must not be above"),
        (lambda: Linear(target=0.5, begin=3, end=3), "before end 3"),
    ):
        with pytest.raises(CompressionError, match=message):
            wrong()
