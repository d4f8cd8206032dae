"""Products with coded weights beside what they replace: `python -m benchmarks.kernels [--json file] [--rounds 60]`.

One thread. First 4,096 x 4,096 weights that come from memory: every call takes the next of so many copies that four times the
last level's cache does not hold them (as in `benchmarks.kernels_sparse`, which has blocks, 2 of 4 and masks). The measured
bandwidth is the better of two ways to read as many bytes as the 4-bit weight has: a sum over int64, and the largest int32.
Then the shapes of MiniLM and ResNet, whose weights are in the cache, against float32. Cases take turns, those of one row and
those of 64 by themselves: after 27 ms of float32 products the core is slower for a while. Each counts by its median, in the
thread's own processor time. Ratios are times as fast. oneDNN gets its activations already quantized.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from benchmarks.kernels_sparse import BYTES, Case, case, copies, measured
from modelmill.kernels import coded_conv2d, coded_linear, pack, status, tile_scales
from modelmill.kernels.linear import multiply
from modelmill.kernels.weight import Coded, Ready

SIZE = 4096
GROUP = 128
MINILM = ((384, 384), (1536, 384), (384, 1536))
ROWS = (1, 8, 64, 256)
RESNET = ((16, 32), (32, 16), (64, 8))
"""Channels, and pixels of a side."""
BATCHES = (1, 32)
PIECE = 0.002
"""Seconds that one measurement in the cache takes."""
LIMITS = {
    "int4_m1_bandwidth_share": 0.75,
    "int4_m1_vs_aten": 2.0,
    "int4_m64_vs_onednn_int8": 0.85,
    "int2_m1_vs_int4": 1.5,
    "binary_m1_vs_int4": 2.0,
}
"""At least; promised for a core with AVX512-VNNI."""
Weight = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]


def coded(bits: int, outputs: int, inputs: int) -> Weight:
    """Tiles, scales and levels: symmetric at 4 bits, as most grids are; -1 and 1 at 1 bit."""
    levels = {4: torch.arange(-8, 8), 2: torch.arange(-1, 3), 1: torch.tensor([-1, 1])}.get(bits)
    codes = torch.randint(0, 1 << bits, (outputs, inputs), dtype=torch.uint8)
    scale = tile_scales(torch.rand(outputs, 1) / inputs)
    return pack(codes, bits), scale, None if levels is None else levels.to(torch.int8)


def linear(x: torch.Tensor, weight: Weight, bits: int, outputs: int) -> torch.Tensor:
    return coded_linear(x, *weight, None, None, bits=bits, inputs=x.shape[-1], outputs=outputs)


def from_memory(rows: int, bits: int) -> Case:
    """As a layer calls it, whose weight is checked once."""
    x, (codes, scale, levels) = torch.randn(rows, SIZE), coded(bits, SIZE, SIZE)
    rotated, count = copies((codes,)), -(-BYTES // codes.nbytes)
    tiles: list[torch.Tensor] = [next(rotated)[0] for _ in range(count)]
    made = itertools.cycle([Ready(Coded(one, scale, levels, None, None, bits, SIZE, SIZE)) for one in tiles])
    return Case(lambda: multiply(x, next(made), None), codes.nbytes)


def aten_int4() -> Case:
    codes = torch.randint(0, 16, (SIZE, SIZE), dtype=torch.int32)
    packed = torch._convert_weight_to_int4pack_for_cpu(codes, 1)
    x, scales = torch.randn(1, SIZE, dtype=torch.bfloat16), torch.rand(SIZE // GROUP, SIZE, 2, dtype=torch.bfloat16)
    return case((packed,), lambda w: torch._weight_int4pack_mm_for_cpu(x, w, GROUP, scales))


def onednn_int8(rows: int) -> Case:
    x = torch.randint(0, 255, (rows, SIZE), dtype=torch.uint8)
    codes = torch.randint(-127, 128, (SIZE, SIZE), dtype=torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(codes.t().contiguous().t(), None)
    scale, zero = torch.rand(SIZE) / SIZE, torch.zeros(SIZE, dtype=torch.int64)
    product = torch.ops.onednn.qlinear_pointwise.default
    rest: tuple[Any, ...] = (scale, zero, None, 1.0, 0, torch.float32, "none", [], "")
    return case((packed,), lambda w: product(x, 0.01, 128, w, *rest))


def memory_cases() -> dict[str, Case]:
    piece = torch.zeros(SIZE * SIZE // 2, dtype=torch.uint8)
    float_rows = torch.randn(64, SIZE)
    return {
        "read: sum of int64": case((piece.view(torch.int64),), lambda it: it.sum()),
        "read: largest int32": case((piece.view(torch.int32),), lambda it: it.amax()),
        "int8, 1 row": from_memory(1, 8),
        "int4, 1 row": from_memory(1, 4),
        "int2, 1 row": from_memory(1, 2),
        "binary, 1 row": from_memory(1, 1),
        "aten int4, 1 row": aten_int4(),
        "int4, 64 rows": from_memory(64, 4),
        "int8, 64 rows": from_memory(64, 8),
        "onednn int8, 64 rows": onednn_int8(64),
        "float32, 64 rows": case((torch.randn(SIZE, SIZE),), lambda w: functional.linear(float_rows, w)),
    }


def promised(seconds: dict[str, float], size: int) -> dict[str, float]:
    """`size`: bytes of a 4-bit weight."""
    read = min(taken for name, taken in seconds.items() if name.startswith("read"))
    int4 = seconds["int4, 1 row"]
    return {
        "read_gigabytes_a_second": size / read / 1e9,
        "int4_m1_bandwidth_share": read / int4,
        "int4_m1_vs_aten": seconds["aten int4, 1 row"] / int4,
        "int4_m64_vs_onednn_int8": seconds["onednn int8, 64 rows"] / seconds["int4, 64 rows"],
        "int8_m64_vs_onednn_int8": seconds["onednn int8, 64 rows"] / seconds["int8, 64 rows"],
        "int2_m1_vs_int4": int4 / seconds["int2, 1 row"],
        "binary_m1_vs_int4": int4 / seconds["binary, 1 row"],
    }


def compared(float32: Callable[[], object], others: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of a call in the cache: the median over the rounds, in which all take turns."""
    calls = {"float32": float32, **others}
    times: dict[str, list[float]] = {name: [] for name in calls}
    counts = {}
    for name, call in calls.items():
        call()
        began = time.thread_time()
        call()
        counts[name] = max(1, int(PIECE / max(1e-6, time.thread_time() - began)))
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.thread_time()
            for _ in range(counts[name]):
                call()
            times[name].append((time.thread_time() - began) / counts[name])
    return {name: statistics.median(taken) for name, taken in times.items()}


def minilm(rounds: int) -> dict[str, dict[str, float]]:
    found = {}
    for outputs, inputs in MINILM:
        dense = torch.randn(outputs, inputs)
        weights = {bits: coded(bits, outputs, inputs) for bits in (8, 4, 2, 1)}
        for rows in ROWS:
            x = torch.randn(rows, inputs)
            others: dict[str, Callable[[], object]] = {
                f"int{bits}": lambda x=x, w=weight, bits=bits, n=outputs: linear(x, w, bits, n)  # type: ignore[misc]  # mypy does not infer lambdas with defaults
                for bits, weight in weights.items()
            }
            found[f"linear {outputs}x{inputs}, {rows} rows"] = compared(
                lambda x=x, w=dense: functional.linear(x, w),  # type: ignore[misc]  # mypy does not infer lambdas with defaults
                others,
                rounds,
            )
    return found


def resnet(rounds: int) -> dict[str, dict[str, float]]:
    """3 x 3, activations as after ReLU, channels last."""
    found = {}
    for channels, side in RESNET:
        dense = torch.randn(channels, channels, 3, 3).contiguous(memory_format=torch.channels_last)
        weights = {bits: coded(bits, channels, 9 * channels) for bits in (8, 4)}
        for batch in BATCHES:
            x = torch.randn(batch, channels, side, side).relu_().contiguous(memory_format=torch.channels_last)

            def convolve(bits: int, x: torch.Tensor = x, weights: dict[int, Weight] = weights, n: int = channels) -> object:
                arguments: dict[str, Any] = {"bits": bits, "outputs": n, "kernel": (3, 3), "padding": (1, 1)}
                return coded_conv2d(x, *weights[bits], None, None, **arguments)

            others: dict[str, Callable[[], object]] = {
                f"int{bits}": lambda bits=bits, convolve=convolve: convolve(bits)  # type: ignore[misc]  # mypy does not infer lambdas with defaults
                for bits in weights
            }
            found[f"conv {channels}x{side}x{side}, batch {batch}"] = compared(
                lambda x=x, w=dense: functional.conv2d(x, w, None, 1, 1),  # type: ignore[misc]  # mypy does not infer lambdas with defaults
                others,
                rounds,
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with torch.inference_mode():
        found = memory_cases()
        few, many = ({name: it for name, it in found.items() if (", 64 rows" in name) is long} for long in (False, True))
        seconds = measured(few, rounds=options.rounds) | measured(many, rounds=options.rounds)
        in_cache = minilm(options.rounds // 4 + 1) | resnet(options.rounds // 4 + 1)
    print(f"{status()['isa']}, 1 thread; {SIZE} x {SIZE} from memory\n{'':32}{'us':>9}{'GB/s':>7}")
    for name, taken in seconds.items():
        print(f"{name:32}{taken * 1e6:9.0f}{found[name].size / taken / 1e9:7.1f}")
    figures = promised(seconds, found["int4, 1 row"].size)
    for name, value in figures.items():
        print(f"{name:32}{value:9.2f}" + (f"   >= {LIMITS[name]}" if name in LIMITS else ""))
    print("in the cache: float32, then times as fast")
    for name, taken_by in in_cache.items():
        base = taken_by["float32"]
        rest = "".join(f"{other:>7} {base / taken:5.2f}" for other, taken in taken_by.items() if other != "float32")
        print(f"{name:32}{base * 1e6:9.0f} us {rest}")
    if options.json:
        must = [{"name": name, "value": figures[name], "unit": "ratio"} for name in LIMITS]
        result = {"must": must, "isa": status()["isa"], "seconds": seconds, "figures": figures, "in_cache": in_cache}
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
