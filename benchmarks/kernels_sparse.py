"""Products with sparse and binary weights beside dense ones: `python -m benchmarks.kernels_sparse [--json file]`.

One row of activations, 4,096 x 4,096 weights, one thread. Every call takes the next of so many copies of its weight that they
come from memory, not from a cache (four times the last level's 32 MiB), mapped from files as a loader does. Cases take turns;
each counts by its median, in the thread's own processor time: the clock would also tell about the neighbours, and the more the
longer a case takes.
A ratio says how many times as fast as the fastest dense product of the kind it names.
"""

import argparse
import importlib
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from modelmill.kernels import binary, blocks, products, sparse
from modelmill.kernels.blocks import Blocks
from modelmill.kernels.sparse import Sparse

SIZE = 4096
BYTES = 4 * (32 << 20) * 9 // 8
Call = Callable[[], object]


@dataclass
class Case:
    """What is timed, and what its weight takes."""

    call: Call
    size: int


def copies(tensors: tuple[torch.Tensor | None, ...]) -> Iterator[Any]:
    """Copies of the tensors in turn, for ever; together larger than the caches."""
    size = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    made = [tuple(None if t is None else mapped(t) for t in tensors) for _ in range(-(-BYTES // size))]
    return itertools.cycle(made)


def mapped(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in a file's pages, as a loader gives a weight: they are large where the file system's folios are.

    oneDNN's own layouts cannot be in files; they are multiplied with many rows only, which memory does not limit.
    """
    if tensor.is_mkldnn:
        return tensor.clone()
    with tempfile.NamedTemporaryFile() as file:
        tensor.contiguous().flatten().view(torch.uint8).numpy().tofile(file.name)
        pages = torch.from_file(file.name, shared=False, size=tensor.nbytes, dtype=torch.uint8)
    return pages.view(tensor.dtype).view(tensor.shape)


def case(tensors: tuple[torch.Tensor | None, ...], call: Callable[..., object]) -> Case:
    rotated = copies(tensors)
    return Case(lambda: call(*next(rotated)), sum(tensor.nbytes for tensor in tensors if tensor is not None))


def sparse_case(x: torch.Tensor, weight: Blocks | Sparse) -> Case:
    product: Any = products.block_linear if isinstance(weight, Blocks) else products.sparse_linear
    names = [field.name for field in fields(weight) if field.name not in ("outputs", "inputs")]
    rotated = copies(tuple(getattr(weight, name) for name in names))
    made = itertools.cycle(
        [replace(weight, **dict(zip(names, next(rotated), strict=True))) for _ in range(_count(weight, names))]
    )
    return Case(lambda: product(x, next(made)), _size(weight, names))


def _size(weight: Blocks | Sparse, names: list[str]) -> int:
    return sum(getattr(weight, name).nbytes for name in names if getattr(weight, name) is not None)


def _count(weight: Blocks | Sparse, names: list[str]) -> int:
    return -(-BYTES // _size(weight, names))


def cases() -> dict[str, Case]:
    torch.manual_seed(0)
    x, rows = torch.randn(1, SIZE), torch.randn(SIZE, SIZE) / 64
    scale = torch.full((SIZE,), 1 / 64 / 30)
    codes = (rows / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
    kept = (torch.rand(SIZE // 16, SIZE) < 0.2).repeat_interleave(16, dim=0)
    kept4 = (torch.rand(SIZE // 4, SIZE) < 0.2).repeat_interleave(4, dim=0)
    half = torch.rand(SIZE, SIZE) < 0.5
    two = torch.rand(SIZE, SIZE // 4, 4).argsort(dim=2).view(SIZE, SIZE) < 2
    found = {
        "dense float32": case((rows,), lambda w: torch.mm(x, w.t())),
        "block 16x1 80 % int8": sparse_case(x, blocks.encode(codes * kept, height=16, scale=scale)),
        "block 16x1 80 % float32": sparse_case(x, blocks.encode(rows * kept, height=16)),
        "block 4x1 80 % int8": sparse_case(x, blocks.encode(codes * kept4, height=4, scale=scale)),
        "block 4x1 80 % float32": sparse_case(x, blocks.encode(rows * kept4, height=4)),
        "2 of 4 int8": sparse_case(x, sparse.encode_two_of_four(codes * two, scale=scale)),
        "2 of 4 float32": sparse_case(x, sparse.encode_two_of_four(rows * two)),
        "unstructured 50 % int8": sparse_case(x, sparse.encode_mask(codes * half, scale=scale)),
        "unstructured 50 % float32": sparse_case(x, sparse.encode_mask(rows * half)),
        "binary": case((binary.pack_signs(rows), scale), lambda signs, s: binary.binary_linear(x, signs, s)),
    }
    return found | dense_int8(x, codes, scale)


def dense_int8(x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor) -> dict[str, Case]:
    """Every dense int8 product there is here; those that fail are left out and named."""
    packed = torch.ops.onednn.qlinear_prepack(codes.t().contiguous().t(), None) if _has_onednn() else None
    one, zero = torch.ones(SIZE), torch.zeros(SIZE, dtype=torch.int64)
    coarse = x.to(torch.bfloat16)
    ones = one.to(torch.bfloat16)
    steps = (x * 30).round().clamp(-127, 127).to(torch.int8)

    def onednn(w: torch.Tensor) -> object:
        codes_of_x = (x * 30).round_().clamp_(-127, 127).add_(128).to(torch.uint8)
        operator = torch.ops.onednn.qlinear_pointwise.default
        return operator(codes_of_x, 1 / 30, 128, w, scale, zero, None, 1.0, 0, torch.float32, "none", [], "")

    def own(w: torch.Tensor) -> object:
        y = torch.empty(1, SIZE)
        products.native.dense_linear(
            w.data_ptr(), scale.data_ptr(), 0, y.data_ptr(), x.data_ptr(), 1, SIZE, SIZE, products.LEVELS[products.ISA]
        )
        return y

    tried = {
        "dense int8: rows, int8 activations": ((codes,), own),
        "dense int8: aten _weight_int8pack_mm": ((codes,), lambda w: torch.ops.aten._weight_int8pack_mm(coarse, w, ones)),
        "dense int8: aten _int_mm": ((codes,), lambda w: torch._int_mm(steps, w.t())),
        "dense int8: onednn qlinear": ((packed,), onednn),
        "dense int8: quantized linear_dynamic": _fbgemm(x, codes, scale),
        "dense int8: codes": _coded(x, codes, scale),
    }
    return {name: case(*it) for name, it in tried.items() if it is not None and _runs(name, it)}


def _has_onednn() -> bool:
    return hasattr(torch.ops.onednn, "qlinear_prepack")


def _fbgemm(
    x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor
) -> tuple[tuple[torch.Tensor], Callable[..., object]] | None:
    """FBGEMM's packed weights are objects, not tensors: packed once for each copy, found again by address."""
    packs: dict[int, Any] = {}

    def call(w: torch.Tensor) -> object:
        if w.data_ptr() not in packs:
            quantized = torch._make_per_channel_quantized_tensor(w, scale.double(), torch.zeros(SIZE, dtype=torch.int64), 0)
            packs[w.data_ptr()] = torch.ops.quantized.linear_prepack(quantized, None)
        return torch.ops.quantized.linear_dynamic(x, packs[w.data_ptr()], reduce_range=True)

    return (codes,), call


def _coded(x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor) -> tuple[tuple[torch.Tensor], Callable[..., object]] | None:
    """This project's own product with 8-bit codes, where it is."""
    try:
        operators = importlib.import_module("modelmill.kernels.linear")
    except ImportError:
        return None
    tiles = importlib.import_module("modelmill.kernels.tiles").prepare8(codes)
    grouped = scale.view(-1, 1, 16)

    def call(w: torch.Tensor) -> object:
        return operators.coded_linear(x, w, grouped, None, None, None, bits=8, inputs=SIZE, outputs=SIZE)

    return (tiles,), call


def _runs(name: str, tried: tuple[tuple[torch.Tensor | None, ...], Callable[..., object]]) -> bool:
    try:
        tried[1](*tried[0])
    except (RuntimeError, NotImplementedError, AttributeError, TypeError) as error:
        print(f"left out: {name}: {str(error).splitlines()[0]}")
        return False
    return True


def measured(found: dict[str, Case], *, rounds: int) -> dict[str, float]:
    """Median seconds of a call, after one turn through all copies."""
    times: dict[str, list[float]] = {name: [] for name in found}
    for it in found.values():
        for _ in range(BYTES // it.size + 1):
            it.call()
    for _ in range(rounds):
        for name, it in found.items():
            began = time.thread_time()
            it.call()
            times[name].append(time.thread_time() - began)
    return {name: statistics.median(taken) for name, taken in times.items()}


def ratios(seconds: dict[str, float]) -> dict[str, float]:
    integer = min(taken for name, taken in seconds.items() if name.startswith("dense int8"))
    dense = seconds["dense float32"]
    return {
        "block16x1_80_m1_vs_dense_int8": integer / seconds["block 16x1 80 % int8"],
        "block4x1_80_m1_vs_dense_int8": integer / seconds["block 4x1 80 % int8"],
        "block16x1_80_m1_float_vs_dense_float": dense / seconds["block 16x1 80 % float32"],
        "block4x1_80_m1_float_vs_dense_float": dense / seconds["block 4x1 80 % float32"],
        "two_of_four_m1_vs_dense_int8": integer / seconds["2 of 4 int8"],
        "two_of_four_m1_float_vs_dense_float": dense / seconds["2 of 4 float32"],
        "mask50_m1_vs_dense_int8": integer / seconds["unstructured 50 % int8"],
        "mask50_m1_float_vs_dense_float": dense / seconds["unstructured 50 % float32"],
        "binary_activations_m1_vs_dense_float": dense / seconds["binary"],
        "binary_activations_m1_vs_dense_int8": integer / seconds["binary"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        found = cases()
        seconds = measured(found, rounds=options.rounds)
    print(f"{SIZE} x {SIZE}, 1 row, 1 thread, {products.ISA}\n{'':40}{'us':>9}{'MB':>8}{'GB/s':>7}")
    for name, taken in seconds.items():
        print(f"{name:40}{taken * 1e6:9.0f}{found[name].size / 1e6:8.2f}{found[name].size / taken / 1e9:7.1f}")
    for name, ratio in ratios(seconds).items():
        print(f"{name:40}{ratio:9.2f}")
    if options.json:
        promised = "block16x1_80_m1_vs_dense_int8"
        must = [{"name": promised, "value": ratios(seconds)[promised], "unit": "ratio"}]
        result = {"must": must, "isa": products.ISA, "seconds": seconds, "ratios": ratios(seconds)}
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
