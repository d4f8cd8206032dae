"""2 of 4 and masks: what is stored, the product on every instruction set, and what is refused."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelmill.compress.errors import BadArtifact, CompressionError
from modelmill.kernels import integers, products, sparse
from modelmill.kernels.sparse import Sparse
from tests.compression.kernels.sparse_weights import ISAS, answers, as_codes, halved, pruned, shapes

few = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
kinds = st.sampled_from(["mask", "two of four"])


def rows_of(kind: str, outputs: int, inputs: int, kept: float) -> torch.Tensor:
    return pruned(outputs, inputs, kept=kept) if kind == "mask" else halved(pruned(outputs, 4 * -(-inputs // 4), kept=kept))


def encoded(kind: str, rows: torch.Tensor, scale: torch.Tensor | None = None) -> Sparse:
    return (sparse.encode_mask if kind == "mask" else sparse.encode_two_of_four)(rows, scale=scale)


@few
@given(kind=kinds, shape=shapes, kept=st.sampled_from([0.0, 0.5, 1.0]))
def test_what_was_encoded_decodes_to_the_same_rows(
    monkeypatch: pytest.MonkeyPatch, kind: str, shape: tuple[int, int, int], kept: float
) -> None:
    outputs, inputs, _ = shape
    rows = rows_of(kind, outputs, inputs, kept)
    codes, scale = as_codes(rows)
    for weight, dense in (
        (encoded(kind, rows), rows),
        (encoded(kind, codes, scale), codes.float() * scale[:, None]),
    ):
        sparse.check(weight, name="w")
        for isa in ISAS:
            monkeypatch.setattr(products, "ISA", isa)
            assert torch.equal(products.decode_rows(weight, outputs // 3, outputs), dense[outputs // 3 :])


@few
@given(kind=kinds, shape=shapes, kept=st.sampled_from([0.0, 0.5, 1.0]))
def test_int8_products_are_the_same_bits_on_every_instruction_set(
    monkeypatch: pytest.MonkeyPatch, kind: str, shape: tuple[int, int, int], kept: float
) -> None:
    outputs, _, rows = shape
    codes, scale = as_codes(rows_of(kind, outputs, shape[1], kept))
    x, bias = torch.randn(rows, codes.shape[1]), torch.randn(outputs)
    found = answers(monkeypatch, products.sparse_linear, x, encoded(kind, codes, scale), bias)
    steps, x_scale = integers.quantize_rows(x)
    expected = (steps.long() @ codes.long().t()).to(torch.float32) * scale * x_scale[:, None] + bias
    for isa, answer in found.items():
        assert torch.equal(answer, expected), isa


@few
@given(kind=kinds, shape=shapes)
def test_float_products_are_those_of_the_dense_rows(
    monkeypatch: pytest.MonkeyPatch, kind: str, shape: tuple[int, int, int]
) -> None:
    outputs, inputs, rows = shape
    dense = rows_of(kind, outputs, inputs, 0.5)
    x, bias = torch.randn(rows, dense.shape[1]), torch.randn(outputs)
    for answer in answers(monkeypatch, products.sparse_linear, x, encoded(kind, dense), bias).values():
        torch.testing.assert_close(answer, x @ dense.t() + bias, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("isa", [isa for isa in ISAS if isa != "reference"])  # plain torch checks every index itself
def test_bits_that_nobody_checked_read_nothing_outside(monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    monkeypatch.setattr(products, "ISA", isa)
    values, starts = torch.ones(3, dtype=torch.int8), torch.tensor([0, 1, 3], dtype=torch.int32)
    full = torch.full((2, 3), 255, dtype=torch.uint8)
    greedy = Sparse(values=values, bits=full, starts=starts, scale=torch.ones(2), outputs=2, inputs=20)
    assert products.decode_rows(greedy, 0, 2).sum(dim=1).tolist() == [3.0, 2.0]
    twice = Sparse(values=torch.ones(2, 10, dtype=torch.int8), bits=full, starts=None, scale=torch.ones(2), outputs=2, inputs=20)
    assert products.sparse_linear(torch.ones(1, 20), twice).tolist() == [[pytest.approx(5.0)] * 2]


def two_of_four() -> Sparse:
    return encoded("two of four", torch.tensor([[0, 5, 0, 6], [7, 0, 0, 0]], dtype=torch.int8), torch.ones(2))


def masked() -> Sparse:
    return encoded("mask", torch.tensor([[0, 5, 0, 6, 1], [7, 0, 0, 0, 0]], dtype=torch.int8), torch.ones(2))


def test_the_layouts_are_as_documented() -> None:
    assert two_of_four().values.tolist() == [[5, 6], [7, 0]]
    assert two_of_four().bits.tolist() == [[1 | 3 << 2], [0 | 1 << 2]]
    assert masked().values.tolist() == [5, 6, 1, 7]
    assert masked().bits.tolist() == [[0b11010], [1]]
    starts = masked().starts
    assert starts is not None
    assert starts.tolist() == [0, 3, 4]


@pytest.mark.parametrize(
    ("weight", "changes", "message"),
    [
        (two_of_four(), {"bits": torch.tensor([[5], [4]], dtype=torch.uint8)}, "1 and 1 of row 0"),
        (two_of_four(), {"bits": torch.tensor([[13], [1]], dtype=torch.uint8)}, "1 and 0 of row 1"),
        (two_of_four(), {"bits": torch.tensor([[29], [4]], dtype=torch.uint8)}, "behind the last position"),
        (two_of_four(), {"bits": torch.zeros(2, 2, dtype=torch.uint8)}, r"uint8 \[2, 1\]"),
        (two_of_four(), {"bits": torch.zeros(2, 1, dtype=torch.int8)}, "int8"),
        (two_of_four(), {"inputs": 6}, "in fours"),
        (two_of_four(), {"inputs": 8}, r"\[2, 4\]"),
        (two_of_four(), {"values": torch.full((2, 2), -128, dtype=torch.int8)}, "-128"),
        (two_of_four(), {"values": torch.ones(2, 2)}, "no scale"),
        (two_of_four(), {"values": torch.ones(2, 2, dtype=torch.int16)}, "int16"),
        (two_of_four(), {"scale": torch.tensor([1.0, torch.inf])}, "row 1"),
        (masked(), {"bits": torch.tensor([[0b11010], [3]], dtype=torch.uint8)}, "row 1 keeps 2 values, starts say 1"),
        (masked(), {"bits": torch.tensor([[0b1010], [0b100001]], dtype=torch.uint8)}, "behind the last input"),
        (masked(), {"starts": torch.tensor([0, 3, 5], dtype=torch.int32)}, "0 to the 4 values"),
        (masked(), {"starts": torch.tensor([0, 5, 4], dtype=torch.int32)}, "grow"),
        (masked(), {"starts": torch.tensor([0, 3, 4])}, "int64"),
        (masked(), {"values": torch.tensor(1, dtype=torch.int8)}, r"\[0\]"),
        (masked(), {"outputs": 0}, "must be 1 or more"),
    ],
)
def test_a_file_that_does_not_fit_together_is_refused(weight: Sparse, changes: dict[str, Any], message: str) -> None:
    sparse.check(weight, name="fc.weight")
    with pytest.raises(BadArtifact, match=message) as caught:
        sparse.check(replace(weight, **changes), name="fc.weight")
    assert "'fc.weight'" in str(caught.value)


def test_weights_that_are_not_2_of_4_are_refused() -> None:
    with pytest.raises(CompressionError, match="3 of 4"):
        sparse.encode_two_of_four(torch.tensor([[1.0, 1.0, 0.0, 1.0]]))
    with pytest.raises(CompressionError, match="in fours, not 6"):
        sparse.encode_two_of_four(torch.zeros(1, 6))


def test_tensors_that_do_not_fit_each_other_never_reach_the_native_code() -> None:
    x = torch.ones(1, 5)
    with pytest.raises(ValueError, match="bits"):
        products.sparse_linear(x, replace(masked(), bits=torch.zeros(2, 2, dtype=torch.uint8)))
    with pytest.raises(ValueError, match="starts"):
        products.sparse_linear(x, replace(masked(), starts=torch.zeros(2, dtype=torch.int32)))
    with pytest.raises(ValueError, match="values"):
        products.sparse_linear(torch.ones(1, 4), replace(two_of_four(), values=torch.zeros(2, 3, dtype=torch.int8)))
