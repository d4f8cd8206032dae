import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelmill.compress.errors import CompressionError
from modelmill.kernels import coded_linear, unpack, untile_scales
from tests.compression.kernels.made import TABLES, Made, module, running, sets, weight

SHAPES = st.sampled_from(((5, 7, 1), (16, 64, 1), (33, 100, 5), (20, 320, 10), (17, 48, 4), (40, 1300, 1), (80, 2560, 10)))


def dense(made: Made, bits: int, outputs: int, inputs: int) -> torch.Tensor:
    """What the codes mean, by the format's formula."""
    codes = unpack(made.codes, bits=bits, rows=outputs, inputs=inputs)
    levels = codes.view(torch.int8) if bits == 8 else codes
    values = levels.double() if made.levels is None else made.levels[codes.long()].double()
    repeat = inputs // made.scale.shape[1]
    if made.zero is not None:
        values = values - untile_scales(made.zero, outputs).repeat_interleave(repeat, 1)
    return values * untile_scales(made.scale, outputs).repeat_interleave(repeat, 1)


@settings(max_examples=60)
@given(
    st.sampled_from((1, 2, 4, 8)),
    SHAPES,
    st.sampled_from(TABLES),
    st.booleans(),
    st.sampled_from((1, 2, 3, 4, 5, 8, 13, 30)),
    st.booleans(),
)
def test_every_instruction_set_gives_the_same_bits_as_plain_c(
    bits: int, shape: tuple[int, int, int], table: str, zero: bool, rows: int, positive: bool
) -> None:
    outputs, inputs, groups = shape
    made = weight(bits, outputs, inputs, groups=groups, table=table, zero=zero)
    x = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(rows))
    x = x.relu() if positive else x
    results = []
    for number in sets():
        with running(module(), number):
            results.append(coded_linear(x, *made, bits=bits, inputs=inputs, outputs=outputs))
    assert all(torch.equal(results[0], result) for result in results)
    with running(None):
        reference = coded_linear(x, *made, bits=bits, inputs=inputs, outputs=outputs)
    # The reference rounds a total twice: its last bit may differ.
    torch.testing.assert_close(results[0], reference, rtol=1e-6, atol=1e-6 * float(reference.abs().max()))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("rows", [1, 9])
def test_the_result_is_that_of_the_dense_weight_but_for_the_activations_rounding(bits: int, rows: int) -> None:
    made = weight(bits, 24, 256, groups=2, table="any", zero=True)
    values = dense(made, bits, 24, 256)
    x = torch.randn(rows, 256)
    assert made.bias is not None
    exact = x.double() @ values.t() + made.bias
    step = x.abs().amax(1, keepdim=True) / 127
    error = (coded_linear(x, *made, bits=bits, inputs=256, outputs=24) - exact).abs()
    assert (error <= step / 2 * values.abs().sum(1) * 1.001 + 1e-4).all()


def test_whole_activations_give_exact_results() -> None:
    made = weight(4, 16, 64, table="any")._replace(scale=torch.ones(1, 1, 16), bias=None)
    x = torch.randint(-127, 128, (3, 64)).float()
    x[:, 0] = 127
    exact = x.double() @ dense(made, 4, 16, 64).t()
    assert torch.equal(coded_linear(x, *made, bits=4, inputs=64, outputs=16).double(), exact)


@pytest.mark.parametrize("table", ["none", "any"])
@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("inputs", [4096, 65536])
def test_sums_hold_the_largest_products_there_are(table: str, rows: int, sign: int, inputs: int) -> None:
    for bits in (1, 2, 4, 8):
        made = weight(bits, 16, inputs)._replace(bias=None, scale=torch.ones(1, 1, 16))
        made.codes.fill_(255 if table == "any" or bits < 8 else 0x80)
        largest = torch.full((1 << bits,), -128, dtype=torch.int8)
        made = made._replace(levels=largest if table == "any" else None)
        value = -128 if table == "any" or bits == 8 else (1 << bits) - 1
        x = torch.full((rows, inputs), 127.0)
        x[-1] *= sign
        expected = torch.full((rows, 16), 127.0 * inputs * value)
        expected[-1] *= sign
        assert torch.equal(coded_linear(x, *made, bits=bits, inputs=inputs, outputs=16), expected)


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    made = weight(4, 20, 128, groups=4, zero=True)
    x = torch.randn(11, 128) * torch.logspace(-3, 3, 11)[:, None]
    together = coded_linear(x, *made, bits=4, inputs=128, outputs=20)
    alone = [coded_linear(row[None], *made, bits=4, inputs=128, outputs=20) for row in x]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("scale", [None, 0.1])
def test_a_value_that_is_not_finite_makes_its_row_nan_and_no_other(value: float, scale: float | None) -> None:
    made = weight(4, 20, 64)
    x = torch.randn(6, 64)
    x[2, 5] = value
    for found in (module(), None):
        with running(found):
            out = coded_linear(x, *made, bits=4, inputs=64, outputs=20, activation_scale=scale, relu=True)
        assert out[2].isnan().all()
        assert out[[0, 1, 3, 4, 5]].isfinite().all()


def test_rows_of_zeros_and_of_hardly_anything_give_the_bias() -> None:
    made = weight(8, 20, 64)
    x = torch.zeros(2, 64)
    x[1] = 1e-38
    for found in (module(), None):
        with running(found):
            out = coded_linear(x, *made, bits=8, inputs=64, outputs=20)
        assert made.bias is not None
        assert torch.equal(out, made.bias.expand(2, 20))


def test_a_calibrated_scale_cuts_off_what_is_larger() -> None:
    made = weight(8, 20, 64)
    x = torch.randn(3, 64) * 10
    fixed: dict[str, Any] = {"bits": 8, "inputs": 64, "outputs": 20, "activation_scale": 0.05}
    limited = x.clamp(-127 * 0.05, 127 * 0.05)
    assert torch.equal(coded_linear(x, *made, **fixed), coded_linear(limited, *made, **fixed))
    with running(None):
        reference = coded_linear(x, *made, **fixed)
    assert torch.equal(coded_linear(x, *made, **fixed), reference)


def test_any_leading_dimensions_and_types_are_kept() -> None:
    made = weight(4, 20, 64)
    x = torch.randn(2, 3, 64).transpose(0, 1)
    out = coded_linear(x.bfloat16(), *made, bits=4, inputs=64, outputs=20, relu=True)
    assert out.shape == (3, 2, 20)
    assert out.dtype == torch.bfloat16
    plain = coded_linear(x.bfloat16().float().reshape(-1, 64), *made, bits=4, inputs=64, outputs=20)
    assert torch.equal(out, plain.relu().view(3, 2, 20).bfloat16())
    assert coded_linear(torch.randn(0, 64), *made, bits=4, inputs=64, outputs=20).shape == (0, 20)


def test_threads_give_the_same_bits() -> None:
    made = weight(4, 256, 1024, groups=8)
    before = torch.get_num_threads()
    for rows in (4, 70):  # by tiles, by rows of few tiles
        x = torch.randn(rows * 16, 1024)
        try:
            torch.set_num_threads(1)
            alone = coded_linear(x, *made, bits=4, inputs=1024, outputs=256)
            torch.set_num_threads(3)
            together = coded_linear(x, *made, bits=4, inputs=1024, outputs=256)
        finally:
            torch.set_num_threads(before)
        assert torch.equal(alone, together)


def test_the_operator_is_sound_for_tracing() -> None:
    made = weight(4, 20, 64, groups=2, table="any", zero=True)
    torch.library.opcheck(
        torch.ops.modelmill.coded_linear.default,
        (torch.randn(3, 64), *made, 4, 64, 20, None, False),
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"codes": torch.zeros(2, 8, 64)}, "codes is torch.float32"),
        ({"codes": torch.zeros(1, 8, 64, dtype=torch.uint8)}, "codes is torch.uint8"),
        ({"scale": torch.ones(2, 3, 16)}, "scale is torch.float32"),
        ({"scale": torch.ones(2, 1, 16).double()}, "scale is torch.float64"),
        ({"zero": torch.zeros(2, 2, 16, dtype=torch.int8)}, "zero is torch.int8"),
        ({"levels": torch.zeros(8, dtype=torch.int8)}, "levels is torch.int8"),
        ({"bias": torch.zeros(19)}, "bias is torch.float32"),
    ],
)
def test_what_does_not_fit_together_is_refused(change: dict[str, torch.Tensor], said: str) -> None:
    made = weight(4, 20, 64)._replace(**change)
    with pytest.raises(CompressionError, match=said):
        coded_linear(torch.randn(1, 64), *made, bits=4, inputs=64, outputs=20)


def test_activations_that_do_not_fit_are_refused() -> None:
    made = weight(4, 20, 64)
    with pytest.raises(CompressionError, match="takes 64 inputs"):
        coded_linear(torch.randn(1, 63), *made, bits=4, inputs=64, outputs=20)
    with pytest.raises(CompressionError, match="activation_scale is nan"):
        coded_linear(torch.randn(1, 64), *made, bits=4, inputs=64, outputs=20, activation_scale=math.nan)
