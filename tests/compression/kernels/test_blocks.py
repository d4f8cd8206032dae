"""Blocks of 16 or 4 rows: what is stored, the product on every instruction set, and what is refused."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelmill.compress.errors import BadArtifact, CompressionError
from modelmill.kernels import blocks, integers, products
from modelmill.kernels.blocks import Blocks
from tests.compression.kernels.sparse_weights import ISAS, answers, as_codes, pruned, shapes

few = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@few
@given(shape=shapes, height=st.sampled_from(blocks.HEIGHTS), kept=st.sampled_from([0.0, 0.2, 1.0]))
def test_what_was_encoded_decodes_to_the_same_rows(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int], height: int, kept: float
) -> None:
    outputs, inputs, _ = shape
    rows = pruned(outputs, inputs, height=height, kept=kept)
    weight = blocks.encode(rows, height=height)
    blocks.check(weight, name="w")
    start, stop = outputs // 3, outputs
    for isa in ISAS:
        monkeypatch.setattr(products, "ISA", isa)
        assert torch.equal(products.decode_rows(weight, start, stop), rows[start:stop])


@few
@given(shape=shapes, height=st.sampled_from(blocks.HEIGHTS), kept=st.sampled_from([0.0, 0.2, 1.0]))
def test_int8_products_are_the_same_bits_on_every_instruction_set(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int], height: int, kept: float
) -> None:
    outputs, inputs, rows = shape
    codes, scale = as_codes(pruned(outputs, inputs, height=height, kept=kept))
    weight = blocks.encode(codes, height=height, scale=scale)
    blocks.check(weight, name="w")
    x, bias = torch.randn(rows, inputs), torch.randn(outputs)
    found = answers(monkeypatch, products.block_linear, x, weight, bias)
    steps, x_scale = integers.quantize_rows(x)
    expected = (steps.long() @ codes.long().t()).to(torch.float32) * scale * x_scale[:, None] + bias
    for isa, answer in found.items():
        assert torch.equal(answer, expected), isa


@few
@given(shape=shapes, height=st.sampled_from(blocks.HEIGHTS))
def test_float_products_are_those_of_the_dense_rows(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int], height: int
) -> None:
    outputs, inputs, rows = shape
    dense = pruned(outputs, inputs, height=height)
    x = torch.randn(rows, inputs)
    found = answers(monkeypatch, products.block_linear, x, blocks.encode(dense, height=height), None)
    native = [answer for isa, answer in found.items() if isa != "reference"]
    assert all(torch.equal(answer, native[0]) for answer in native)
    for answer in found.values():
        torch.testing.assert_close(answer, x @ dense.t(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("height", blocks.HEIGHTS)
def test_the_largest_values_do_not_saturate(monkeypatch: pytest.MonkeyPatch, height: int) -> None:
    codes = torch.full((height, 64), 127, dtype=torch.int8)
    codes[1] = -127
    weight = blocks.encode(codes, height=height, scale=torch.ones(height))
    x = torch.full((5, 64), 127.0)
    for answer in answers(monkeypatch, products.block_linear, x, weight, None).values():
        assert answer[0, :2].tolist() == [127.0 * 127 * 64, -127.0 * 127 * 64]


def test_a_row_answers_the_same_whoever_is_in_the_batch() -> None:
    for rows, scale in ((pruned(32, 50, height=16), None), as_codes(pruned(32, 50, height=16))):
        weight = blocks.encode(rows, height=16, scale=scale)
        x = torch.randn(7, 50)
        whole = products.block_linear(x, weight)
        assert all(torch.equal(products.block_linear(x[m : m + 1], weight)[0], whole[m]) for m in range(7))


def test_a_row_that_is_not_finite_answers_nan_and_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    codes, scale = as_codes(pruned(16, 20, height=16))
    x = torch.randn(3, 20)
    x[1, 4] = torch.inf
    for answer in answers(monkeypatch, products.block_linear, x, blocks.encode(codes, height=16, scale=scale), None).values():
        assert answer.isnan().all(dim=1).tolist() == [False, True, False]


def test_a_given_activation_scale_cuts_what_lies_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = blocks.encode(torch.ones(4, 1, dtype=torch.int8), height=4, scale=torch.ones(4))
    x = torch.tensor([[1e9], [-0.26], [0.25]])
    for isa in ISAS:
        monkeypatch.setattr(products, "ISA", isa)
        answer = products.block_linear(x, weight, activation_scale=0.5)
        assert answer[:, 0].tolist() == [63.5, -0.5, 0.0]


def test_inputs_beyond_16_bits_get_a_wider_index(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.zeros(4, 40_000)
    rows[:, [1, 39_999]] = 1.0
    weight = blocks.encode(rows, height=4)
    blocks.check(weight, name="w")
    assert weight.index.dtype == torch.int32
    x = torch.arange(40_000.0).view(1, -1)
    for answer in answers(monkeypatch, products.block_linear, x, weight, None).values():
        assert answer.tolist() == [[40_000.0] * 4]


def test_any_leading_shape_and_half_precision_go_in_and_come_out() -> None:
    weight = blocks.encode(pruned(16, 8, height=16), height=16)
    answer = products.block_linear(torch.randn(2, 3, 8, dtype=torch.bfloat16), weight)
    assert answer.shape == (2, 3, 16)
    assert answer.dtype == torch.bfloat16
    assert products.block_linear(torch.empty(0, 8), weight).shape == (0, 16)


def test_several_threads_answer_as_one() -> None:
    codes, scale = as_codes(pruned(512, 1024, height=16))
    weight = blocks.encode(codes, height=16, scale=scale)
    x = torch.randn(64, 1024)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = products.block_linear(x, weight)
        torch.set_num_threads(3)
        assert torch.equal(products.block_linear(x, weight), alone)
    finally:
        torch.set_num_threads(before)


def test_an_index_that_nobody_checked_reads_nothing_outside() -> None:
    for dtype in (torch.int16, torch.int32):
        wild = torch.full((3, 4), -1, dtype=dtype)
        starts = torch.tensor([0, 3], dtype=torch.int32)
        values = torch.ones(3, 16, 4, dtype=torch.int8)
        x = torch.tensor([[1.0, 2.0]])
        answer = torch.ops.modelmill.block_linear(x, values, wild, starts, torch.ones(16), None, 16)
        if products.ISA != "reference":
            assert answer[0, 0].item() == pytest.approx(24.0, rel=0.01)  # the last input, for each of them


def small() -> Blocks:
    codes = torch.tensor([[1, 0, 2, 3, 4, 5], [0, 0, 1, 0, 0, 1], [1, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 9]], dtype=torch.int8)
    return blocks.encode(codes, height=4, scale=torch.ones(4))


def test_the_layout_is_as_documented() -> None:
    weight = small()
    assert weight.index.tolist() == [[0, 2, 3, 4], [5, 0, 0, 0]]
    assert weight.starts.tolist() == [0, 2]
    assert weight.values[0, 2].tolist() == [1, 1, 1, 1]
    assert weight.values[1, :, 0].tolist() == [5, 1, 1, 9]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": torch.ones(2, 8, 4, dtype=torch.int8)}, r"16 or 4"),
        ({"values": small().values.double()}, "float64"),
        ({"values": torch.full((2, 4, 4), -128, dtype=torch.int8)}, "-128"),
        ({"values": torch.ones(2, 4, 4, dtype=torch.int8)}, "filling"),
        ({"values": torch.ones(2, 4, 4)}, "must have no scale"),
        ({"values": torch.full((2, 4, 4), torch.nan), "scale": None}, "not finite"),
        ({"index": torch.tensor([[0, 2, 3, 4], [6, 0, 0, 0]], dtype=torch.int16)}, "from 0 to 5"),
        ({"index": torch.tensor([[0, 2, 3, 4], [-1, 0, 0, 0]], dtype=torch.int16)}, "index -1"),
        ({"index": torch.tensor([[0, 3, 2, 4], [5, 0, 0, 0]], dtype=torch.int16)}, "index 2 after 3"),
        ({"index": torch.tensor([[0, 2, 3, 4], [4, 0, 0, 0]], dtype=torch.int16)}, "index 4 after 4"),
        ({"index": torch.tensor([[0, 2, 0, 4], [5, 0, 0, 0]], dtype=torch.int16)}, "filling"),
        ({"index": torch.tensor([[0, 2, 3, 4], [5, 0, 5, 0]], dtype=torch.int16)}, "filling"),
        ({"index": small().index.int()}, "must be torch.int16"),
        ({"starts": torch.tensor([0, 1], dtype=torch.int32)}, "0 to the 2 quads"),
        ({"starts": torch.tensor([1, 2], dtype=torch.int32)}, "0 to the 2 quads"),
        ({"starts": torch.tensor([0, 1, 2], dtype=torch.int32)}, r"int32 \[2\]"),
        ({"starts": torch.tensor([0, 3, 2], dtype=torch.int32), "outputs": 8, "scale": torch.ones(8)}, "grow"),
        ({"scale": torch.tensor([1.0, 0.0, 1.0, 1.0])}, "row 1 must be finite and above 0"),
        ({"scale": None}, "found none|has none"),
        ({"scale": torch.ones(3)}, r"\[4\]"),
        ({"inputs": 0}, "must be 1 or more"),
    ],
)
def test_a_file_that_does_not_fit_together_is_refused(changes: dict[str, Any], message: str) -> None:
    blocks.check(small(), name="fc.weight")
    with pytest.raises(BadArtifact, match=message) as caught:
        blocks.check(replace(small(), **changes), name="fc.weight")
    assert "'fc.weight'" in str(caught.value)


def test_weights_that_cannot_be_blocks_are_refused() -> None:
    with pytest.raises(CompressionError, match="8 rows"):
        blocks.encode(torch.ones(8, 8), height=8)
    with pytest.raises(CompressionError, match="not finite"):
        blocks.encode(torch.full((4, 4), torch.nan), height=4)
    with pytest.raises(CompressionError, match="int8"):
        blocks.encode(torch.ones(4, 4), height=4, scale=torch.ones(4))


def test_tensors_that_do_not_fit_each_other_never_reach_the_native_code() -> None:
    weight = small()
    with pytest.raises(ValueError, match="6 inputs"):
        products.block_linear(torch.ones(1, 5), weight)
    with pytest.raises(ValueError, match="starts"):
        products.block_linear(torch.ones(1, 6), replace(weight, outputs=5))
    with pytest.raises(ValueError, match="scale"):
        products.block_linear(torch.ones(1, 6), replace(weight, scale=torch.ones(3)))
    with pytest.raises(ValueError, match="bias"):
        products.block_linear(torch.ones(1, 6), weight, torch.ones(3))
    with pytest.raises(ValueError, match="within 4"):
        products.decode_rows(weight, 2, 5)
    if products.ISA != "reference":
        with pytest.raises(ValueError, match="starts must grow"):
            products.block_linear(torch.ones(1, 6), replace(weight, starts=torch.tensor([0, 9], dtype=torch.int32)))
