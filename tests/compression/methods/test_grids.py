"""Every grid: through the file to the bit, the error bound of its docstring, what is refused. Not: computing on it."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelmill.compress.codecs.coded import CodedWeight
from modelmill.compress.codes import Codes, rows_of
from modelmill.compress.errors import CompressionError
from modelmill.compress.grids.binary import Binary
from modelmill.compress.grids.clipping import MSE, Percentile
from modelmill.compress.grids.dynamic_range import DynamicRange
from modelmill.compress.grids.fixed_point import FixedPoint
from modelmill.compress.grids.grid import Granularity, Grid
from modelmill.compress.grids.kmeans import KMeans
from modelmill.compress.grids.nearest import reassign
from modelmill.compress.grids.normal_float import NormalFloat, quantiles
from modelmill.compress.grids.residue import Residue
from modelmill.compress.grids.steps import Steps
from modelmill.compress.grids.ternary import Ternary
from modelmill.compress.grids.uniform import Uniform
from modelmill.compress.weights import read_weights, write_weights

LINEAR = st.tuples(st.integers(1, 20), st.integers(1, 70))
CONV = st.tuples(st.integers(1, 18), st.integers(1, 6), st.integers(1, 3), st.integers(1, 3))
GRANULARITIES: tuple[Granularity, ...] = ("Tensor", "Channel", "Group")
ROUNDING = 1 + 2**-18

even: list[Grid] = [
    *(Uniform(bits=bits, granularity=to, group_size=1) for bits in (2, 3, 4, 8) for to in GRANULARITIES),
    *(DynamicRange(bits=bits) for bits in (2, 4, 7, 8)),
]
skewed: list[Grid] = [
    Uniform(bits=bits, symmetric=False, granularity=to, group_size=1) for bits in (2, 5, 8) for to in GRANULARITIES
]
pointed: list[Grid] = [
    FixedPoint(bits=4),
    FixedPoint(bits=3),
    FixedPoint(),
    Residue(modulus=2),
    Residue(modulus=13),
    Residue(modulus=256),
]
books: list[Grid] = [
    NormalFloat(granularity="Channel"),
    NormalFloat(bits=3, granularity="Tensor"),
    *(KMeans(clusters=k, granularity=to, group_size=1) for k in (2, 5, 40) for to in GRANULARITIES),
    KMeans(clusters=4, start="Quantile", zero_kept=True),
    KMeans(clusters=17, zero_kept=True, granularity="Channel"),
    Steps(steps=2),
    Steps(steps=7, zero_kept=True),
    Steps(granularity="Channel"),
]
signs: list[Grid] = [Binary(), Binary(granularity="Tensor"), Ternary(), Ternary(granularity="Group", group_size=1)]
searched: list[Grid] = [
    Uniform(bits=2, clipping=MSE()),
    Uniform(bits=4, symmetric=False, clipping=MSE(steps=9)),
    Uniform(bits=4, granularity="Tensor", clipping=Percentile(percentile=90)),
    Uniform(bits=4, symmetric=False, clipping=Percentile(percentile=95)),
]
EVERY: list[Grid] = [*even, *skewed, *pointed, *books, *signs, *searched]


def ids(grid: object) -> str:
    return str(grid)


def weight_like(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Of that shape, its channels of different sizes, with some zeros."""
    made = torch.Generator().manual_seed(seed)
    sizes = torch.rand(shape[0], generator=made).view(-1, *[1] * (len(shape) - 1)) * 3
    weight = torch.randn(shape, generator=made) * sizes
    return weight * (torch.rand(shape, generator=made) > 0.2)


def storable(grid: Grid, shape: tuple[int, ...]) -> Grid:
    """Groups need channels in fours where codes are small; such convolutions are refused (test_coded)."""
    return replace(grid, granularity="Channel") if len(shape) > 2 and getattr(grid, "granularity", "") == "Group" else grid  # type: ignore[type-var]


def largest_by_scale(codes: Codes, weight: torch.Tensor) -> torch.Tensor:
    """The error of each weight in scales of its own."""
    error = (rows_of(weight) - rows_of(codes.decode())).abs()
    return (error.view(error.shape[0], codes.scale.shape[1], -1) / codes.scale[..., None]).max()


@pytest.mark.parametrize("shapes", [LINEAR, CONV], ids=["linear", "convolution"])
@given(st.data(), st.integers(0, 2**32))
@settings(max_examples=3, deadline=None)
def test_through_the_file_every_weight_is_the_same_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, shapes: st.SearchStrategy[tuple[int, ...]], data: st.DataObject, seed: int
) -> None:
    shape = data.draw(shapes)
    weight = weight_like(shape, seed)
    every = {str(index): storable(grid, shape).encode(weight, name="w") for index, grid in enumerate(EVERY)}
    path: Path = tmp_path_factory.mktemp("grids") / "w.safetensors"
    write_weights(path, {name: CodedWeight.of(codes) for name, codes in every.items()})
    read = read_weights(path).tensors
    for name, codes in every.items():
        found, wanted = read[name], codes.decode()
        assert isinstance(found, CodedWeight)
        assert found.descriptor() == CodedWeight.of(codes).descriptor()
        assert wanted.shape == shape
        assert torch.equal(found.decode(), wanted), EVERY[int(name)]
        some = shape[0] // 2
        assert torch.equal(found.rows(some, shape[0]), rows_of(wanted)[some:]), EVERY[int(name)]


@given(LINEAR | CONV, st.integers(0, 2**32))
@settings(max_examples=4, deadline=None)
def test_errors_stay_within_the_bounds_that_the_grids_promise(shape: tuple[int, ...], seed: int) -> None:
    weight = weight_like(shape, seed)
    for grid in even:
        assert largest_by_scale(grid.encode(weight, name="w"), weight) <= 0.5 * ROUNDING, grid
    for skew in skewed:
        assert largest_by_scale(skew.encode(weight, name="w"), weight) <= 0.5 + 1e-4, skew
    for residue in (Residue(modulus=256), Residue(modulus=5), FixedPoint(point=2)):
        assert largest_by_scale(residue.encode(weight, name="w"), weight) <= 0.5 * ROUNDING, residue
    for normal in (NormalFloat(granularity="Channel"), NormalFloat(bits=2, granularity="Tensor")):
        codes = normal.encode(weight, name="w")
        assert codes.levels is not None
        gap = float(codes.levels.unique().float().diff().max())
        assert largest_by_scale(codes, weight) <= gap / 2 * ROUNDING, normal
    rows, binary, ternary = rows_of(weight).abs(), Binary().encode(weight, name="w"), Ternary().encode(weight, name="w")
    most, threshold = rows.amax(dim=1), 0.7 * rows.mean(dim=1)
    assert bool((rows_of(binary.decode() - weight).abs().amax(dim=1) <= most * ROUNDING + 2**-90).all())
    bound = torch.maximum(threshold, torch.maximum(most - ternary.scale[:, 0], ternary.scale[:, 0] - threshold))
    assert bool((rows_of(ternary.decode() - weight).abs().amax(dim=1) <= bound * ROUNDING + most * 2**-20).all())


@given(LINEAR | CONV, st.integers(0, 2**32))
@settings(max_examples=4, deadline=None)
def test_what_was_decoded_is_already_on_the_grid(shape: tuple[int, ...], seed: int) -> None:
    weight = weight_like(shape, seed)
    for grid in [*even, *(normal for normal in books if isinstance(normal, NormalFloat))]:
        codes = grid.encode(weight, name="w")
        assert torch.equal(grid.encode(codes.decode(), name="w").codes, codes.codes), grid
    for point in pointed:
        value = point.encode(weight, name="w").decode()
        assert torch.equal(point.encode(value, name="w").decode(), value), point
    for shared in [KMeans(clusters=8), KMeans(clusters=64), KMeans(clusters=5, zero_kept=True)]:
        value = shared.encode(weight, name="w").decode()
        # A scale that is found anew may be off by a rounding.
        assert torch.allclose(shared.encode(value, name="w").decode(), value, rtol=1e-6, atol=0), shared


@given(LINEAR | CONV, st.integers(0, 2**32))
@settings(max_examples=4, deadline=None)
def test_zeros_stay_zero_where_a_grid_says_so(shape: tuple[int, ...], seed: int) -> None:
    weight = weight_like(shape, seed)
    for grid in EVERY:
        if grid.holds_zero:
            value = storable(grid, shape).encode(weight, name="w").decode()
            assert bool((value[weight == 0] == 0).all()), grid


@given(LINEAR | CONV, st.integers(0, 2**32))
@settings(max_examples=4, deadline=None)
def test_the_nearest_values_are_never_farther_than_those_that_the_grid_chose(shape: tuple[int, ...], seed: int) -> None:
    weight = weight_like(shape, seed)
    for grid in EVERY:
        codes = grid.encode(weight, name="w")
        value = codes.decode()
        again = reassign(codes, value)
        assert torch.equal(again.decode(), value), grid
        moved = weight + 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        error = (reassign(codes, moved).decode() - moved).abs()
        assert bool((error <= (value - moved).abs() * ROUNDING + 1e-6).all()), grid


@pytest.mark.parametrize("grid", EVERY, ids=ids)
def test_a_weight_of_zeros_stays_as_good_as_zero(grid: Grid) -> None:
    codes = grid.encode(torch.zeros(3, 5), name="w")
    assert float(codes.decode().abs().max()) <= (0.0 if grid.holds_zero else 2**-100)
    assert bool((codes.scale > 0).all())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused_by_name(bad: float) -> None:
    for grid in EVERY:
        with pytest.raises(CompressionError, match=r"tensor 'fc\.weight': 1 values are not finite"):
            grid.encode(torch.tensor([[1.0, bad]]), name="fc.weight")


def test_the_four_bits_of_nf4_are_those_that_were_published() -> None:
    published = [-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0, 0.0795803, 0.1609302]
    published += [0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0]
    assert torch.allclose(quantiles(4), torch.tensor(published, dtype=torch.float64), atol=1e-6)
    codes = NormalFloat(granularity="Tensor").encode(torch.randn(8, 8), name="w")
    assert codes.levels is not None
    assert codes.levels.tolist() == [round(127 * value) for value in published]


def test_fixed_point_is_a_shift_and_refuses_what_would_overflow() -> None:
    weight = torch.tensor([[0.5, -1.0], [0.3, 0.9]])
    codes = FixedPoint(bits=8, point=5).encode(weight, name="w")
    assert codes.codes.tolist() == [[16, -32], [10, 29]]
    assert codes.scale.flatten().tolist() == [2.0**-5] * 2
    with pytest.raises(CompressionError, match=r"'w': p 8 overflows 8 bits, weights reach 1; the largest p that works is 7"):
        FixedPoint(bits=8, point=8).encode(weight, name="w")
    with pytest.raises(CompressionError, match=r"no p works"):
        FixedPoint(bits=2).encode(weight * 2.0**110, name="w")


@given(LINEAR, st.integers(0, 2**32), st.integers(2, 8))
@settings(max_examples=10, deadline=None)
def test_no_other_binary_point_has_a_smaller_error(shape: tuple[int, ...], seed: int, bits: int) -> None:
    weight = weight_like(shape, seed)
    codes = FixedPoint(bits=bits).encode(weight, name="w")
    half = 2 ** (bits - 1)

    def error(p: int) -> float:
        return float((torch.clamp(torch.round(weight * 2.0**p), -half, half - 1) / 2.0**p - weight).square().sum())

    least = min(map(error, range(-8, 24)))
    assert float((codes.decode() - weight).square().sum()) <= least * (1 + 1e-5)


def test_residues_are_lifted_to_their_centred_representatives() -> None:
    weight = torch.tensor([[3.0, -3.0, 0.0, 1.0, -2.0]])
    codes = Residue(modulus=7, point=0).encode(weight, name="w")
    assert codes.codes.tolist() == [[3, 4, 0, 1, 5]]
    assert codes.bits == 4
    assert torch.equal(codes.decode(), weight)
    assert [Residue(modulus=q).encode(weight, name="w").bits for q in (2, 4, 16, 17, 256)] == [1, 2, 4, 8, 8]


def test_a_modulus_that_loses_information_is_refused_with_the_smallest_that_works() -> None:
    weight = torch.tensor([[1.0, -0.75]])
    told = r"tensor 'w': q 8 loses information at p 2; the smallest q that works is 9; with this q, the largest p that works is 1"
    with pytest.raises(CompressionError, match=told):
        Residue(modulus=8, point=2).encode(weight, name="w")
    assert torch.equal(Residue(modulus=9, point=2).encode(weight, name="w").decode(), weight)
    with pytest.raises(
        CompressionError, match=r"works is 2049, and q goes up to 256; with this q, the largest p that works is 6"
    ):
        Residue(modulus=256, point=10).encode(weight, name="w")


def test_dynamic_range_stores_a_sign_and_a_magnitude() -> None:
    codes = DynamicRange(bits=8).encode(torch.tensor([[127.0, -127.0, -1.0, -0.2, 5.0]]), name="w")
    assert codes.codes.tolist() == [[127, 255, 129, 0, 5]]
    assert codes.levels is not None
    assert int(codes.levels[128]) == 0
    assert int(codes.levels[255]) == -127


@pytest.mark.parametrize(("clusters", "bits"), [(2, 1), (4, 2), (16, 4), (17, 8), (256, 8)])
def test_no_more_values_are_shared_than_there_are_clusters(clusters: int, bits: int) -> None:
    weight = torch.randn(40, 50, generator=torch.Generator().manual_seed(1))
    codes = KMeans(clusters=clusters).encode(weight, name="w")
    assert codes.bits == bits
    assert len(codes.decode().unique()) <= clusters


def test_learned_values_are_the_better_the_more_freely_they_are_chosen() -> None:
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(2)) ** 3

    def error(grid: Grid) -> float:
        return float((grid.encode(weight, name="w").decode() - weight).square().mean())

    uniform = error(Uniform(bits=4, granularity="Tensor", clipping=MSE()))
    assert error(Steps()) <= error(KMeans()) * 1.01 <= uniform
    assert uniform <= error(Uniform(bits=4, granularity="Tensor")) / 1.5
    gaussian = torch.randn(128, 128, generator=torch.Generator().manual_seed(3))
    # Max 1960, table I: the least mean squared error of 4 and 16 values for a Gaussian of variance 1.
    for steps, least in ((4, 0.1175), (16, 0.009497)):
        found = Steps(steps=steps).encode(gaussian, name="w").decode()
        assert float((found - gaussian).square().mean()) == pytest.approx(least, rel=0.04)


def test_steps_follow_what_is_important() -> None:
    weight = torch.tensor([[0.0, 0.1, 0.2, 5.0, 5.1, 9.0]])
    plain = Steps(steps=2).encode(weight, name="w").decode()
    careful = Steps(steps=2, importance=torch.tensor([[100.0, 1.0, 100.0, 0.01, 0.01, 0.01]])).encode(weight, name="w").decode()
    assert plain[0, 0] == plain[0, 2] != plain[0, 3]
    # Now the error of 0.2 counts more than those of 5 to 9.
    assert careful[0].tolist() == pytest.approx([0.0, 0.0, 0.2, 0.2, 0.2, 0.2], abs=0.01)
    with pytest.raises(CompressionError, match=r"tensor 'w': importance \[2\] must have the weight's shape \[1, 6\]"):
        Steps(importance=torch.ones(2)).encode(weight, name="w")


def test_large_weights_are_fitted_by_their_histogram() -> None:
    weight = torch.randn(300, 300, generator=torch.Generator().manual_seed(4))
    found = KMeans(zero_kept=True).encode(weight, name="w").decode()
    assert float((found - weight).square().mean()) < 0.0105
    assert float(Steps().encode(weight, name="w").decode().sub(weight).square().mean()) < 0.0097


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Uniform(bits=1), r"bits 1 must be a whole number from 2 to 8"),
        (lambda: Uniform(bits=True), r"bits True"),
        (
            lambda: Uniform(granularity="Row"),  # type: ignore[arg-type]
            r"granularity 'Row' must be one of Tensor, Channel, Group",
        ),
        (lambda: Uniform(granularity="Group", group_size=0), r"groupSize 0"),
        (lambda: Percentile(percentile=20), r"percentile 20 must be from 50 to 100"),
        (lambda: MSE(steps=1), r"steps 1"),
        (lambda: MSE(least=0), r"least 0 must be above 0"),
        (lambda: FixedPoint(point=200), r"p 200 must be a whole number from -100 to 100"),
        (lambda: Residue(modulus=257), r"q 257 must be a whole number from 2 to 256"),
        (lambda: DynamicRange(bits=9), r"bits 9"),
        (lambda: NormalFloat(bits=8), r"bits 8 must be a whole number from 2 to 4"),
        (lambda: KMeans(clusters=257), r"clusters 257"),
        (
            lambda: KMeans(start="Random"),  # type: ignore[arg-type]
            r"start 'Random' must be one of Linear, Quantile",
        ),
        (lambda: Steps(steps=17), r"steps 17"),
        (
            lambda: Uniform(granularity="Group", group_size=3).encode(torch.ones(2, 8), name="w"),
            r"groupSize 3 does not divide its 8",
        ),
        (lambda: Uniform().encode(torch.ones(2), name="w"), r"tensor 'w': shape \[2\] is not that of a layer's weight"),
        (lambda: reassign(Uniform().encode(torch.ones(2, 2), name="w"), torch.ones(2, 3)), r"weight of shape \[2, 3\]"),
    ],
)
def test_wrong_settings_are_refused_by_field_and_value(make: object, told: str) -> None:
    assert callable(make)
    with pytest.raises(CompressionError, match=told):
        make()
