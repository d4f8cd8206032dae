"""Rows per second of a module as it is and as the loader makes it: `python -m benchmarks.optimize [--json file]`.

In process, fp32, one thread. Modes take turns at each batch size, and each counts by its best run: the others tell
about the neighbours. The limit is torch.jit's trace, freeze and optimize_for_inference, which the server does not use.
`--compiled` adds what `modelmill compile` makes; it needs a C++ compiler.
"""

import argparse
import copy
import dataclasses
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.serving.models.cnn import random_weights
from benchmarks.serving.models.encoder import WORDS, Encoder
from benchmarks.serving.models.mlp import Mlp
from modelmill.serve.compiled.build import compile_module, level_here
from modelmill.serve.compiled.module import CompiledModule
from modelmill.serve.optimize.apply import optimize
from modelmill.signature import Signature, Tensor

BATCHES = (1, 8, 16, 32)
TOKENS = 32
Inputs = tuple[torch.Tensor, ...]
Call = Callable[..., Any]


def images(rows: int) -> Inputs:
    return (torch.rand(rows, 3, 64, 64),)


def texts(rows: int) -> Inputs:
    return torch.randint(WORDS, (rows, TOKENS)), torch.ones(rows, TOKENS, dtype=torch.int64)


def numbers(rows: int) -> Inputs:
    return (torch.rand(rows, 64),)


IDS = Tensor(name="ids", datatype="INT64", shape=(-1, -1))
MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Inputs], tuple[Tensor, ...]]] = {
    "mlp": (Mlp, numbers, (Tensor(name="x", shape=(-1, 64)),)),
    "cnn": (random_weights, images, (Tensor(name="image", shape=(-1, 3, 64, 64)),)),
    "encoder": (Encoder, texts, (IDS, dataclasses.replace(IDS, name="mask"))),
}


def channels_last(module: nn.Module) -> Call:
    moved = copy.deepcopy(module).to(memory_format=torch.channels_last)
    return lambda *inputs: moved(*(x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for x in inputs))


def traced(module: nn.Module, inputs: Inputs) -> Call:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        limit: Call = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(module, inputs)))
    return limit


def compiled(module: nn.Module, inputs: tuple[Tensor, ...], *, scratch: Path) -> Call:
    signature = Signature(inputs=inputs, outputs=(Tensor(name="y", shape=(-1, -1)),))
    library, facts = compile_module(module, signature, level=level_here(None), scratch=scratch)
    return CompiledModule(library, facts, plain=module, signature=signature, instances=1)


def measured(name: str, *, rounds: int, with_compiled: bool, scratch: Path) -> dict[str, dict[int, float]]:
    """Rows per second by mode and batch size."""
    build, inputs_of, signature = MODELS[name]
    torch.manual_seed(0)
    module = build().eval().requires_grad_(False)
    began = time.perf_counter()
    optimized = optimize(module, example=inputs_of(2))
    print(f"{name}: {'; '.join(optimized.notes)}; {time.perf_counter() - began:.3f} s")
    modes: dict[str, Call] = {
        "eager": module,
        "channels_last": channels_last(module),
        "jit (limit)": traced(module, inputs_of(8)),
        "ours": optimized.module,
    }
    if with_compiled:
        with torch.inference_mode(False):
            modes["compiled"] = compiled(module, signature, scratch=scratch)
    best: dict[str, dict[int, float]] = {mode: dict.fromkeys(BATCHES, float("inf")) for mode in modes}
    for batch in BATCHES:
        inputs = inputs_of(batch)
        for _ in range(rounds):
            for mode, call in modes.items():
                best[mode][batch] = min(best[mode][batch], _seconds(call, inputs))
    return {mode: {batch: batch / seconds for batch, seconds in times.items()} for mode, times in best.items()}


def _seconds(call: Call, inputs: Inputs) -> float:
    began = time.perf_counter()
    call(*inputs)
    return time.perf_counter() - began


def show(results: dict[str, dict[int, float]]) -> None:
    print(f"{'rows/s at a batch of':22}" + "".join(f"{batch:11}" for batch in BATCHES))
    for mode, rates in results.items():
        print(f"{mode:22}" + "".join(f"{rates[batch]:11.1f}" for batch in BATCHES))
    ratios = {batch: results["ours"][batch] / results["eager"][batch] for batch in BATCHES}
    print(f"{'ours / eager':22}" + "".join(f"{ratio:11.2f}" for ratio in ratios.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, action="append", help="all unless named")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    with torch.inference_mode(), tempfile.TemporaryDirectory() as scratch:
        for name in options.model or MODELS:
            own = Path(scratch, name)  # a library that was loaded stays loaded under its path
            own.mkdir()
            results[name] = measured(name, rounds=options.rounds, with_compiled=options.compiled, scratch=own)
            show(results[name])
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
