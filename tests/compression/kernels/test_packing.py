"""Linear layers in runs: the same bits as without, and runs that never overflow."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelmill.kernels import coded_linear, native, tile_scales, tiles
from modelmill.kernels.packing import packed, runs_of
from modelmill.kernels.weight import Coded
from tests.compression.kernels.made import module, running, sets


def coded(outputs: int, inputs: int, *, largest: int, seed: int = 0) -> Coded:
    source = torch.Generator().manual_seed(seed)
    codes = torch.randint(-largest, largest + 1, (outputs, inputs), generator=source, dtype=torch.int8)
    scale = tile_scales(torch.rand(outputs, 1, generator=source) / 64 + 1e-3)
    return Coded(tiles.prepare8(codes), scale, None, None, torch.randn(outputs, generator=source), 8, outputs, inputs)


@pytest.fixture(autouse=True)
def in_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this processor gains by it."""
    monkeypatch.setattr("modelmill.kernels.packing.SETS", ("portable", "avx2", "avx512vnni"))


@pytest.mark.parametrize("number", sets())
@settings(max_examples=60, deadline=None)
@given(
    outputs=st.integers(1, 50), inputs=st.integers(1, 200), rows=st.integers(5, 40), relu=st.booleans(),
    scale=st.sampled_from([None, 0.02]), seed=st.integers(0, 9),
)  # fmt: skip
def test_codes_of_7_bits_in_runs_give_the_same_bits(
    number: int, outputs: int, inputs: int, rows: int, relu: bool, scale: float | None, seed: int
) -> None:
    weight = coded(outputs, inputs, largest=64, seed=seed)
    runs = packed(weight)
    assert runs is not None
    x = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(seed))
    x[seed % rows] = 1e9 if seed else float("nan")
    with running(module(), number):
        plain, ours = (
            coded_linear(x, *weight[:5], bits=8, inputs=inputs, outputs=outputs, activation_scale=scale, relu=relu, packed=given)
            for given in (None, runs)
        )
    torch.testing.assert_close(ours, plain, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("number", sets())
def test_the_largest_activations_and_weights_do_not_overflow(number: int) -> None:
    codes = torch.full((16, 64), 64, dtype=torch.int8)
    codes[8:] = -64
    weight = Coded(tiles.prepare8(codes), tile_scales(torch.ones(16, 1)), None, None, None, 8, 16, 64)
    runs = packed(weight)
    assert runs is not None
    x = torch.ones(6, 64)
    x[3:] = -1
    with running(module(), number):
        found = coded_linear(x, *weight[:5], bits=8, inputs=64, outputs=16, packed=runs)
    assert torch.allclose(found.abs(), torch.tensor(64.0 * 64))


def test_neighbours_that_are_both_large_have_no_runs() -> None:
    assert packed(coded(16, 64, largest=127)) is None


@given(largest=st.integers(1, 127), steps=st.integers(1, 70), seed=st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_every_step_is_in_one_run_and_no_run_can_overflow(largest: int, steps: int, seed: int) -> None:
    weight = coded(16, 4 * steps, largest=largest, seed=seed)
    runs = runs_of(weight, steps, largest=127)
    assert runs is not None
    lengths, order = runs[0][0].tolist(), runs[1][0].to(torch.int64)
    assert sum(lengths) == steps
    assert order.sort().values.tolist() == list(range(steps))
    # [steps, 16 rows x 2 pairs, 2]: the two inputs whose products share a 16-bit sum.
    levels = weight.codes.view(torch.int8).view(steps, 32, 2).to(torch.int64)
    begin = 0
    for length in lengths:
        own = levels[order[begin : begin + length]]
        for sign in (1, -1):
            assert int((sign * own).clamp(min=0).sum(dim=(0, 2)).max()) * 127 <= 32767
        begin += length


def test_a_processor_that_gains_nothing_packs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelmill.kernels.packing.SETS", ())
    assert packed(coded(16, 64, largest=9)) is None
    assert native.chosen.module is not None
