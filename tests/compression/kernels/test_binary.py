"""Products of signs: packing, the product on every instruction set, and what is refused."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from modelmill.compress.errors import BadArtifact
from modelmill.kernels import binary, products
from tests.compression.kernels.sparse_weights import ISAS, shapes

few = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@few
@given(shape=shapes)
def test_the_product_is_that_of_signs_times_the_mean_magnitude(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int]
) -> None:
    outputs, inputs, rows = shape[0], 9 * shape[1], shape[2]
    x, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
    scale, bias = torch.rand(outputs) + 0.1, torch.randn(outputs)
    expected = (x.sign() @ weight.sign().t()) * scale * x.abs().mean(dim=1, keepdim=True) + bias
    native = []
    for isa in ISAS:
        monkeypatch.setattr(products, "ISA", isa)
        signs = binary.pack_signs(weight)
        binary.check(signs, scale, outputs=outputs, inputs=inputs, name="w")
        assert torch.equal(binary.unpack_signs(signs, inputs=inputs), weight.sign())
        answer = binary.binary_linear(x, signs, scale, bias)
        torch.testing.assert_close(answer, expected, rtol=1e-5, atol=1e-4)
        native += [] if isa == "reference" else [answer]
    assert all(torch.equal(answer, native[0]) for answer in native)


def test_many_words_are_counted_without_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = 64 * 4 * 40 + 3
    signs = binary.pack_signs(torch.full((2, inputs), -1.0))
    for isa in ISAS:
        monkeypatch.setattr(products, "ISA", isa)
        assert binary.binary_linear(torch.ones(1, inputs), signs, torch.ones(2)).tolist() == [[-inputs, -inputs]]


def test_zero_counts_as_plus_one_and_bits_ascend() -> None:
    assert binary.pack_signs(torch.tensor([[0.0, -1.0, -0.0, 2.0, -3.0]])).tolist() == [[0b10010]]
    assert binary.pack_signs(-torch.ones(1, 65)).tolist() == [[-1, 1]]


def test_a_row_that_is_not_finite_does_not_answer_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    signs = binary.pack_signs(torch.ones(3, 10))
    x = torch.ones(2, 10)
    x[0, 3] = torch.nan
    for isa in ISAS:
        monkeypatch.setattr(products, "ISA", isa)
        assert binary.binary_linear(x, signs, torch.ones(3)).isfinite().all(dim=1).tolist() == [False, True]


def test_a_file_that_does_not_fit_together_is_refused() -> None:
    signs, scale = binary.pack_signs(torch.randn(3, 70)), torch.ones(3)
    wide = signs.clone()
    wide[1, 1] |= 1 << 6
    for tensors, message in (
        ((wide, scale), "behind the last input"),
        ((signs[:2], scale), r"\[3, 2\]"),
        ((signs.int(), scale), "int32"),
        ((signs, -scale), "above 0"),
    ):
        with pytest.raises(BadArtifact, match=message):
            binary.check(*tensors, outputs=3, inputs=70, name="w")
    with pytest.raises(ValueError, match="signs"):
        binary.binary_linear(torch.ones(1, 200), signs, scale)
    with pytest.raises(ValueError, match="scale"):
        binary.binary_linear(torch.ones(1, 70), signs, torch.ones(2))
