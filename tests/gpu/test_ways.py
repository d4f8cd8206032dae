"""Ways on a real GPU: each passes its trial, answers as the decoded weight does, and is timed beside dense bfloat16.

Not: what the numbers mean, which a CPU shows (tests/compression/kernels/test_gpu_ways.py).
"""

from functools import partial
from typing import Any

import pytest
import torch
from torch.nn import functional

from modelmill.compress.codecs.coded import CodedWeight
from modelmill.compress.codecs.sparse import SparseWeight
from modelmill.compress.grids.uniform import Uniform
from modelmill.compress.weight import CompressedWeight
from modelmill.kernels.gpu import WAYS, Way, Whole, objection
from modelmill.kernels.gpu.int4 import Int4
from modelmill.kernels.gpu.integer import Int8, TwoOfFour
from tests.gpu.timing import micros

GPU = torch.device("cuda")
OUTPUTS, INPUTS = 4096, 4096
Figures = dict[str, Any]


def weight(way: type[Way], *, symmetric: bool = True) -> CompressedWeight:
    torch.manual_seed(0)
    dense = torch.randn(OUTPUTS, INPUTS)
    if way is TwoOfFour:
        kept = dense.view(OUTPUTS, -1, 4).abs().argsort(dim=2).argsort(dim=2).view(OUTPUTS, INPUTS) > 1
        return SparseWeight.of(dense * kept, pattern="2:4", int8=Uniform(), name="w")
    four = Uniform(bits=4, granularity="Group", group_size=128, symmetric=symmetric)
    return CodedWeight.of((four if way is Int4 else Uniform(symmetric=symmetric)).encode(dense, name="w"))


def made(way: type[Way], *, symmetric: bool = True) -> tuple[Way, Whole]:
    whole = weight(way, symmetric=symmetric).to(GPU).whole()
    assert whole is not None
    assert way.refusal(whole, torch.cuda.get_device_capability()) is None
    return way.of(whole, None).eval(), whole


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_each_way_passes_its_trial(way: type[Way], figures: Figures) -> None:
    told = objection(way, GPU)
    figures.setdefault("ways", {})[way.name] = told or "right"
    assert told is None


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("rows", [1, 16, 65, 1000])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_a_large_weight_answers_as_the_decoded_one(way: type[Way], rows: int, symmetric: bool) -> None:
    layer, whole = made(way, symmetric=symmetric)
    x = torch.randn(rows, INPUTS, device=GPU)
    with torch.inference_mode():
        found, wanted = layer(x), functional.linear(x, whole.decode())
    # int8 activations are the coarsest of what lies between.
    assert float(((found - wanted).norm(dim=1) / wanted.norm(dim=1)).max()) < 0.02


@pytest.mark.parametrize("way", [Int8, TwoOfFour], ids=lambda way: way.name)
def test_whole_numbers_give_the_same_bits_for_any_batch(way: type[Way]) -> None:
    layer, _ = made(way)
    x = torch.randn(70, INPUTS, device=GPU)
    with torch.inference_mode():
        assert torch.equal(layer(x)[:3], layer(x[:3]))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_it_is_traced(way: type[Way]) -> None:
    layer, _ = made(way)
    x = torch.randn(40, INPUTS, device=GPU)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim("rows", min=1, max=512)},)).module()
    with torch.inference_mode():
        for count in (1, 40):
            torch.testing.assert_close(program(x[:count]), layer(x[:count]))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_times_beside_dense_bfloat16_are_written_down(way: type[Way], figures: Figures) -> None:
    layer, whole = made(way)
    dense = whole.decode().bfloat16()
    times = figures.setdefault("linear_4096_micros", {})
    for rows in (1, 16, 64, 256, 1024):
        x = torch.randn(rows, INPUTS, device=GPU, dtype=torch.bfloat16)
        times[f"{way.name}, {rows} rows"] = micros(partial(layer, x))
        times[f"dense bfloat16, {rows} rows"] = micros(partial(functional.linear, x, dense))
    stored = sum(tensor.nbytes for tensor in layer.state_dict().values())
    figures.setdefault("bytes_ratio", {})[way.name] = round(stored / dense.nbytes, 3)
    assert stored < 0.7 * dense.nbytes
