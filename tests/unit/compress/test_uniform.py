"""Uniform int8 codes: the error bound, the grid, what is refused. Not: computing on them (test_kernels)."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modelmill.compress.errors import CompressionError
from modelmill.compress.grids.uniform import Uniform

values = st.floats(width=32, min_value=-(2.0**100), max_value=2.0**100)
shapes = st.tuples(st.integers(1, 5), st.integers(1, 7))


@st.composite
def matrices(draw: st.DrawFn) -> torch.Tensor:
    rows, columns = draw(shapes)
    return torch.tensor(draw(st.lists(values, min_size=rows * columns, max_size=rows * columns))).view(rows, columns)


def encoded(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    codes = Uniform().encode(weight, name="w")
    assert codes.levels is None
    return codes.codes, codes.scale


@given(matrices())
def test_every_weight_is_within_half_a_step_of_its_code(weight: torch.Tensor) -> None:
    codes, scale = encoded(weight)
    error = (weight.double() - codes.double() * scale.double()).abs()
    # A float32 division and a rounding to even may be off by one part in 2^22 of the code.
    assert bool((error <= scale.double() * (0.5 + 128 * 2**-22)).all())


@given(matrices())
def test_codes_are_symmetric_and_scales_positive(weight: torch.Tensor) -> None:
    codes, scale = encoded(weight)
    assert int(codes.min()) >= -127
    assert bool((scale > 0).all())
    negated, same = encoded(-weight)
    assert torch.equal(negated, -codes)
    assert torch.equal(same, scale)


@given(matrices())
def test_encoding_what_was_decoded_changes_no_code(weight: torch.Tensor) -> None:
    codes, scale = encoded(weight)
    again, _ = encoded(codes.float() * scale)
    ordinary = scale.flatten() > 1e-30  # below, decoded values are subnormal and lose digits
    assert torch.equal(again[ordinary], codes[ordinary])


def test_zeros_stay_zero_and_a_channel_of_zeros_has_scale_one() -> None:
    weight = torch.tensor([[0.0, 0.0], [0.0, 3.0]])
    codes, scale = encoded(weight)
    assert codes.tolist() == [[0, 0], [0, 127]]
    assert scale[0].item() == 1.0


def test_convolutions_have_one_scale_for_each_output_channel() -> None:
    weight = torch.randn(6, 3, 5, 5)
    codes = Uniform().encode(weight, name="w")
    assert codes.scale.shape == (6, 1)
    assert torch.allclose(codes.decode(), weight, atol=float(codes.scale.max()) / 2 * 1.001)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused_by_name(bad: float) -> None:
    with pytest.raises(CompressionError, match=r"tensor 'fc.weight': 1 values are not finite"):
        Uniform().encode(torch.tensor([[1.0, bad]]), name="fc.weight")
