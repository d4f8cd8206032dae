"""Uniform int8 codes: the error bound, the grid, what is refused. Not: computing on them (test_kernels)."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modelmill.compress.codecs import uniform
from modelmill.compress.errors import BadArtifact, CompressionError

values = st.floats(width=32, min_value=-(2.0**100), max_value=2.0**100)
shapes = st.tuples(st.integers(1, 5), st.integers(1, 7))


@st.composite
def matrices(draw: st.DrawFn) -> torch.Tensor:
    rows, columns = draw(shapes)
    return torch.tensor(draw(st.lists(values, min_size=rows * columns, max_size=rows * columns))).view(rows, columns)


@given(matrices())
def test_every_weight_is_within_half_a_step_of_its_code(weight: torch.Tensor) -> None:
    codes, scale = uniform.encode(weight, name="w")
    error = (weight.double() - codes.double() * scale.double()).abs()
    # A float32 division and a rounding to even may be off by one part in 2^22 of the code.
    assert bool((error <= scale.double() * (0.5 + 128 * 2**-22)).all())


@given(matrices())
def test_codes_are_symmetric_and_scales_positive(weight: torch.Tensor) -> None:
    codes, scale = uniform.encode(weight, name="w")
    assert int(codes.min()) >= -127
    assert bool((scale > 0).all())
    negated, same = uniform.encode(-weight, name="w")
    assert torch.equal(negated, -codes)
    assert torch.equal(same, scale)
    uniform.check(codes, scale, name="w")


@given(matrices())
def test_encoding_what_was_decoded_changes_no_code(weight: torch.Tensor) -> None:
    codes, scale = uniform.encode(weight, name="w")
    again, _ = uniform.encode(uniform.decode(codes, scale), name="w")
    ordinary = scale.flatten() > 1e-30  # below, decoded values are subnormal and lose digits
    assert torch.equal(again[ordinary], codes[ordinary])


def test_zeros_stay_zero_and_a_channel_of_zeros_has_scale_one() -> None:
    weight = torch.tensor([[0.0, 0.0], [0.0, 3.0]])
    codes, scale = uniform.encode(weight, name="w")
    assert codes.tolist() == [[0, 0], [0, 127]]
    assert scale[0].item() == 1.0


def test_convolutions_have_one_scale_for_each_output_channel() -> None:
    weight = torch.randn(6, 3, 5, 5)
    codes, scale = uniform.encode(weight, name="w")
    assert codes.shape == weight.shape
    assert scale.shape == (6, 1)
    assert torch.allclose(uniform.decode(codes, scale), weight, atol=float(scale.max()) / 2 * 1.001)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused_by_name(bad: float) -> None:
    with pytest.raises(CompressionError, match=r"tensor 'fc.weight': 1 values are not finite"):
        uniform.encode(torch.tensor([[1.0, bad]]), name="fc.weight")


@pytest.mark.parametrize(
    ("codes", "scale", "told"),
    [
        (torch.zeros(2, 3), torch.ones(2, 1), r"tensor 'w': codes must be torch.int8"),
        (torch.zeros(2, dtype=torch.int8), torch.ones(2, 1), r"tensor 'w': codes must be torch.int8 \[N, ...\]"),
        (torch.zeros(2, 3, dtype=torch.int8), torch.ones(2), r"tensor 'w_scale': expected torch.float32 \[2, 1\]"),
        (torch.zeros(2, 3, dtype=torch.int8), torch.ones(3, 1), r"tensor 'w_scale': expected torch.float32 \[2, 1\]"),
        (torch.zeros(2, 3, dtype=torch.int8), torch.ones(2, 1).double(), r"tensor 'w_scale': expected torch.float32"),
        (torch.zeros(2, 3, dtype=torch.int8), torch.tensor([[1.0], [-2.0]]), r"scale -2 of channel 1 must be finite and above 0"),
        (torch.zeros(2, 3, dtype=torch.int8), torch.tensor([[0.0], [1.0]]), r"scale 0 of channel 0"),
        (torch.zeros(2, 3, dtype=torch.int8), torch.tensor([[1.0], [math.nan]]), r"scale nan of channel 1"),
        (torch.zeros(2, 3, dtype=torch.int8), torch.tensor([[math.inf], [1.0]]), r"scale inf of channel 0"),
    ],
)
def test_codes_and_scales_that_cannot_be_are_refused(codes: torch.Tensor, scale: torch.Tensor, told: str) -> None:
    with pytest.raises(BadArtifact, match=told):
        uniform.check(codes, scale, name="w")
