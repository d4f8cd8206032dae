"""Low rank: nearest of its rank, within its budget, and refused where it saves nothing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from modelmill.compress.errors import CompressionError
from modelmill.compress.lowrank import factor_layers, factors, refusal
from modelmill.compress.structure import Factor, apply_edits
from tests.unit.compress.models import conv_net, dense_net


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 2**16), st.floats(0, 0.99))
def test_the_error_is_within_the_budget_and_one_rank_less_is_not(outputs: int, inputs: int, seed: int, budget: float) -> None:
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))
    found = factors(weight, error=budget)
    measured = float((weight - found.second @ found.first).norm() / weight.norm())
    assert found.error <= budget
    assert measured == pytest.approx(found.error, abs=1e-5)
    if (rank := len(found.first)) > 1:
        assert factors(weight, rank=rank - 1).error > budget


def test_a_matrix_of_low_rank_is_found_exactly() -> None:
    torch.manual_seed(0)
    weight = torch.randn(20, 3) @ torch.randn(3, 30)
    found = factors(weight, error=1e-5)
    assert found.first.shape == (3, 30)
    assert torch.allclose(found.second @ found.first, weight, atol=1e-4)


def test_a_weight_of_zeros_has_rank_one_and_no_error() -> None:
    found = factors(torch.zeros(4, 5), error=0.0)
    assert found.first.shape == (1, 5) and found.error == 0 and not found.first.any()


@pytest.mark.parametrize("stride", [1, 2])
def test_a_factored_convolution_computes_what_the_factors_say(stride: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 16, 3, stride=stride, padding=1)
    module, x = nn.Sequential(layer, nn.ReLU()), torch.randn(2, 6, 9, 9)
    low = factors(layer.weight, rank=5)
    wanted = nn.functional.conv2d(x, (low.second @ low.first).view(16, 6, 3, 3), layer.bias, stride=stride, padding=1).relu()
    made = factor_layers(module, ["0"], rank=5)
    assert made.edits == (Factor(path="0", rank=5),)
    assert made.errors == {"0": pytest.approx(low.error)}
    assert torch.allclose(module(x), wanted, atol=1e-5)


def test_the_edits_make_a_fresh_module_that_takes_the_weights() -> None:
    module = dense_net()
    made = factor_layers(module, ["0", "2"], rank=6)
    fresh = apply_edits(dense_net(seed=1), made.edits)
    fresh.load_state_dict(module.state_dict())
    x = torch.randn(3, 64)
    assert torch.equal(fresh(x), module(x))


def test_what_would_not_save_is_left_as_it_is() -> None:
    module = dense_net()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    made = factor_layers(module, ["0", "4"], error=0.01)
    assert made.edits == () and made.refused.keys() == {"0", "4"}
    assert "where the layer takes 8192; a rank of at most 42 would save" in made.refused["0"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_the_rank_that_a_refusal_names_saves_and_the_next_does_not(outputs: int, inputs: int, rank: int) -> None:
    weight = torch.empty(outputs, inputs, device="meta")
    reason = refusal(weight, rank=rank)
    assert (reason is None) == (rank * (outputs + inputs) < outputs * inputs)
    if reason and "at most" in reason:
        most = int(reason.split("at most ")[1].split()[0])
        assert refusal(weight, rank=most) is None and refusal(weight, rank=most + 1) is not None


def test_wrong_numbers_and_layers_are_refused() -> None:
    weight = torch.randn(4, 5)
    for numbers, message in (
        ({"rank": 5}, "rank 5 must be from 1 to 4"),
        ({"rank": 0}, "rank 0"),
        ({"error": 1.0}, "error 1.0"),
        ({"error": float("nan")}, "error nan"),
        ({}, "not both"),
        ({"rank": 1, "error": 0.1}, "not both"),
    ):
        with pytest.raises(CompressionError, match=message):
            factors(weight, **numbers)
    with pytest.raises(CompressionError, match="NaN or infinity"):
        factors(weight / 0, rank=1)
    with pytest.raises(CompressionError, match="no layer 'nobody'"):
        factor_layers(dense_net(), ["nobody"], rank=1)
    with pytest.raises(CompressionError, match="is a ReLU"):
        factor_layers(dense_net(), ["1"], rank=1)
    with pytest.raises(CompressionError, match="24 groups"):
        factor_layers(conv_net(), ["4"], rank=1)
