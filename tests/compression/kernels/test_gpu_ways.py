"""Ways of a GPU, as far as a CPU can show them: what the numbers mean, what is refused, shapes of the calls, tracing, the trial.

Not: that a device computes so (tests/gpu/test_ways.py)."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from modelmill.compress.codecs.blocks import BlockWeight
from modelmill.compress.codecs.sparse import SparseWeight
from modelmill.compress.grids.binary import Binary
from modelmill.compress.grids.dynamic_range import DynamicRange
from modelmill.compress.grids.fixed_point import FixedPoint
from modelmill.compress.grids.grid import Grid
from modelmill.compress.grids.kmeans import KMeans
from modelmill.compress.grids.normal_float import NormalFloat
from modelmill.compress.grids.residue import Residue
from modelmill.compress.grids.ternary import Ternary
from modelmill.compress.grids.uniform import Uniform
from modelmill.kernels import pack, reference, tile_scales
from modelmill.kernels.gpu import WAYS, Choice, Way, Whole, choose, objection
from modelmill.kernels.gpu.int4 import Int4, hold
from modelmill.kernels.gpu.integer import Int8, TwoOfFour
from tests.compression.kernels import ways

CPU = torch.device("cpu")
HOPPER = (9, 0)
BF16_ROUNDING = torch.finfo(torch.bfloat16).eps / 2
even: list[Grid] = [
    *(Uniform(bits=bits, granularity="Group", group_size=64, symmetric=to) for bits in (2, 3, 4) for to in (True, False)),
    Uniform(bits=4, symmetric=False), Uniform(bits=4, granularity="Tensor"), FixedPoint(bits=4), FixedPoint(bits=3),
    DynamicRange(bits=4), DynamicRange(bits=3), Residue(modulus=13), Ternary(), Ternary(granularity="Group", group_size=32),
    Binary(), Binary(granularity="Group", group_size=128),
]  # fmt: skip
one_scale: list[Grid] = [
    Uniform(), Uniform(bits=5), Uniform(symmetric=False), Residue(), FixedPoint(), KMeans(clusters=200), KMeans(),
    NormalFloat(granularity="Channel"), Uniform(bits=4), Binary(),
]  # fmt: skip


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float(((found - wanted).norm(dim=1) / wanted.norm(dim=1)).max())


def chosen(weight: Whole, capability: tuple[int, int] = HOPPER) -> Choice:
    return choose(weight, capability, lambda way: None)


@pytest.mark.parametrize("rows", [1, 16, 17, 50])
@pytest.mark.parametrize("grid", one_scale, ids=str)
def test_int8_is_the_product_with_the_decoded_weight(grid: Grid, rows: int) -> None:
    weight = ways.whole(grid, 24, 64)
    x = torch.randn(rows, 64) * torch.logspace(-3, 3, rows)[:, None]
    found, wanted = Int8.of(weight, None)(x), functional.linear(x, weight.decode())
    # Activations have 8 bits here too, with a scale for each row: every row must be near, also the smallest.
    assert relative(found, wanted) < 0.03
    giant = torch.full((1, 64), 1e4)
    assert torch.equal(
        Int8.of(weight, None)(torch.cat([x[:1], giant]))[:1], found[:1] if rows == 1 else Int8.of(weight, None)(x[:1])
    )


@pytest.mark.parametrize("activation_scale", [None, 0.01])
@pytest.mark.parametrize("symmetric", [True, False])
def test_int8_is_the_cpus_product_to_the_bit(symmetric: bool, activation_scale: float | None) -> None:
    weight = ways.whole(Uniform(symmetric=symmetric), 40, 72, activation_scale=activation_scale)
    x, bias = torch.randn(9, 72), torch.randn(40)
    x[3, 5], x[4, 6] = float("inf"), float("nan")
    zero = None if weight.zero is None else tile_scales(weight.zero)
    codes = pack(weight.numbers.view(torch.uint8), 8)
    quantized, x_scale = reference.quantize(x, activation_scale)
    wanted = reference.product(quantized, x_scale, codes, tile_scales(weight.scale), None, zero, bias, 8, 40)
    assert torch.equal(Int8.of(weight, bias)(x).nan_to_num(nan=7), wanted.nan_to_num(nan=7))
    assert wanted[3:5].isnan().all() and wanted[5].isfinite().all()


@pytest.mark.parametrize("grid", even, ids=str)
def test_tinygemm_means_by_its_codes_scales_and_zeros_what_the_grid_means(grid: Grid) -> None:
    weight = ways.whole(grid, 48, 256)
    assert Int4.refusal(weight, HOPPER) is None
    held, exact = hold(weight), weight.decode()
    scale, zero = held.scale_and_zero.float().repeat_interleave(held.group, dim=0).unbind(dim=2)
    centred = held.codes.float().t() - 8
    found = ways.Tinygemm.of(weight, None)(torch.eye(256))
    assert torch.equal(found, (centred * scale + zero).bfloat16().float())
    # Scale, zero and value are rounded once each, the zero is that of a rounded scale.
    bound = BF16_ROUNDING * ((centred * scale).abs() + 2 * zero.abs() + exact.t().abs()) * (1 + 4 * BF16_ROUNDING)
    assert bool(((found - exact.t()).abs() <= bound).all())


def test_a_weight_of_zero_stays_zero_where_the_grid_is_symmetric() -> None:
    weight = ways.whole(Uniform(bits=4, granularity="Group", group_size=32), 16, 128)
    found = ways.Tinygemm.of(weight, None)(torch.eye(128)).t()
    assert bool((weight.numbers == 0).any()) and not found[weight.numbers == 0].any()


@pytest.mark.parametrize("grid", even, ids=str)
def test_tinygemm_is_nearer_to_the_decoded_weight_than_int8_activations_are(grid: Grid) -> None:
    weight, x = ways.whole(grid, 48, 256), torch.randn(33, 256)
    wanted = functional.linear(x, weight.decode())
    found = ways.Tinygemm.of(weight, None)(x)
    whole, x_scale = reference.quantize(x, None)
    on_cpu = functional.linear(whole * x_scale[:, None], weight.decode())
    assert relative(found, wanted) < 0.75 * relative(on_cpu, wanted)


def test_what_calibration_cut_off_is_cut_off_in_bfloat16_too() -> None:
    weight = ways.whole(Uniform(bits=4), 16, 64, activation_scale=1 / 127)
    x = torch.randn(4, 64) * 3
    x[2, 0] = float("inf")
    made = ways.Tinygemm.of(weight, None)
    assert torch.equal(made(x)[:2], made(x.clamp(-1, 1))[:2])
    assert made(x)[2].isnan().all() and made(x)[3].isfinite().all()


@pytest.mark.parametrize(
    ("grid", "shape", "way"),
    [
        (Uniform(bits=4), (48, 256), Int4),
        (Uniform(bits=3, granularity="Group", group_size=32), (48, 256), Int4),
        (Uniform(bits=4, granularity="Group", group_size=512), (16, 1024), Int4),
        (Uniform(), (48, 256), Int8),
        (NormalFloat(granularity="Channel"), (48, 256), Int8),
        (KMeans(), (48, 256), Int8),
        (Uniform(bits=4), (48, 40), Int8),
        (NormalFloat(group_size=64), (48, 256), None),
        (Uniform(bits=4, granularity="Group", group_size=48), (48, 96), None),
        (Uniform(granularity="Group", group_size=64), (48, 256), None),
        (Uniform(), (10, 256), None),
        (Uniform(), (48, 65), None),
    ],
    ids=str,
)
def test_the_way_with_the_fewest_bytes_takes_a_weight_where_its_values_and_shape_fit(
    grid: Grid, shape: tuple[int, int], way: type[Way] | None
) -> None:
    found = chosen(ways.whole(grid, *shape))
    assert found.way is way
    assert len(found.reasons) == (len(WAYS) if way is None else WAYS.index(way))


def test_every_reason_is_told_with_the_ways_name() -> None:
    assert chosen(ways.whole(NormalFloat(group_size=64), 48, 256)).reasons == (
        "int4 tinygemm: its values are no 16 even steps",
        "int8 2:4: its zeros are not 2:4",
        "int8: a channel has 4 scales, one is possible",
    )
    old = chosen(ways.whole(Uniform(), 48, 256), (7, 0)).reasons[-1]
    assert old == "int8: it needs compute capability 7.5, this device has 7.0"
    told = choose(ways.whole(Uniform(), 48, 256), HOPPER, lambda way: "it answers wrong").reasons[-1]
    assert told == "int8: it answers wrong"


def test_zeros_far_from_the_values_are_not_rounded_to_bfloat16() -> None:
    weight = ways.whole(Uniform(bits=4, symmetric=False), 16, 64)
    assert weight.zero is not None
    far = Whole(numbers=weight.numbers, scale=weight.scale, levels=weight.levels, zero=weight.zero + 100)
    assert "more than 16 steps" in chosen(far).reasons[0]


def test_int8_values_of_blocks_and_of_sparse_weights_have_ways() -> None:
    torch.manual_seed(0)
    dense = torch.randn(64, 128)
    pairs = dense.view(64, 32, 4).abs().argsort(dim=2).argsort(dim=2).view(64, 128) > 1
    blocks = (torch.rand(4, 1, 128) > 0.6).expand(4, 16, 128).reshape(64, 128)
    uniform, x = Uniform(), torch.randn(5, 128)
    for kept, weight, way in (
        (pairs, SparseWeight.of(dense * pairs, pattern="2:4", int8=uniform, name="w"), TwoOfFour),
        (pairs, SparseWeight.of(dense * pairs, pattern="mask", int8=uniform, name="w"), Int8),
        (blocks, BlockWeight.of(dense * blocks, height=16, int8=uniform, name="w"), Int8),
    ):
        whole = weight.whole()
        assert whole is not None and torch.equal(whole.decode(), weight.decode())
        assert chosen(whole).way is way
        runs = ways.Sparse if way is TwoOfFour else way
        assert relative(runs.of(whole, None)(x), functional.linear(x, dense * kept)) < 0.03
    assert SparseWeight.of(dense * pairs, pattern="2:4", int8=None, name="w").whole() is None


@pytest.mark.parametrize("way", [Int8, ways.Tinygemm, ways.Sparse])
def test_a_right_way_passes_its_trial(way: type[Way]) -> None:
    assert objection(way, CPU) is None


@pytest.mark.parametrize(
    "way",
    [ways.SwapsNeighbours, ways.SubtractsZeros, ways.OneGroup, ways.SumsInHalf, ways.LosesARow, ways.GivesNaN],
)
def test_a_wrong_way_does_not(way: type[Way]) -> None:
    told = objection(way, CPU)
    assert told is not None and told.startswith("it answers wrong: off by up to ")


def test_a_way_that_raises_is_off_and_the_log_has_its_words_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        assert objection(ways.Raises, CPU) == "RuntimeError: CUDA error: no kernel image is available"
    told = "int8 is not used on cpu: RuntimeError: CUDA error: no kernel image is available"
    assert [record.getMessage() for record in caplog.records] == [told]


@pytest.mark.parametrize("way", [Int4, TwoOfFour])
def test_what_only_a_gpu_has_is_off_on_a_cpu(way: type[Way]) -> None:
    assert str(objection(way, CPU)).startswith("NotImplementedError")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("way", [Int8, Int4])
def test_calls_on_a_gpu_have_the_shapes_types_and_devices_that_its_operators_take(way: type[Way], dtype: torch.dtype) -> None:
    with FakeTensorMode():
        numbers, scale = torch.empty(64, 256, dtype=torch.int8, device="cuda"), torch.empty(64, 1, device="cuda")
        weight = Whole(numbers=numbers, scale=scale, levels=way.levels)
        y = way.of(weight, torch.empty(64, device="cuda"))(torch.empty(2, 5, 256, dtype=dtype, device="cuda"))
        assert (y.shape, y.dtype, y.device.type) == ((2, 5, 64), dtype, "cuda")


def test_the_call_of_cusparselt_has_them_too() -> None:
    with FakeTensorMode():
        weight = Whole(
            numbers=torch.empty(64, 256, dtype=torch.int8, device="cuda"), scale=torch.empty(64, 1, device="cuda"),
            levels=TwoOfFour.levels, two_of_four=True,
        )  # fmt: skip
        # Compressing has no meta kernel: of N * K bytes it makes 10/16 of as many.
        made = TwoOfFour(
            weight, None, numbers=torch.empty(64, 160, dtype=torch.int8, device="cuda"), scale=weight.scale.flatten(), zero=None
        )
        y = made(torch.empty(2, 32, 256, device="cuda"))
        assert (y.shape, y.dtype, y.device.type, y.is_contiguous()) == ((2, 32, 64), torch.float32, "cuda", True)


@pytest.mark.parametrize("way", [Int8, ways.Tinygemm])
def test_a_way_is_exported_for_any_number_of_rows(way: type[Way]) -> None:
    made = way.of(ways.whole(Uniform(bits=4), 32, 64), torch.randn(32)).eval()
    rows = torch.export.Dim("rows", min=1, max=512)
    program = torch.export.export(made, (torch.randn(40, 64),), dynamic_shapes=({0: rows},)).module()
    for count in (1, 33, 70):
        x = torch.randn(count, 64)
        assert torch.equal(program(x), made(x))
