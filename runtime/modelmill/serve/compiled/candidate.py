"""Machine code that came with a version: served if this machine can run it, it answers right, and it is faster.

Nothing that is wrong with it keeps a pod from serving: the log says why it is left.
"""

import logging
import os
import time
from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from modelmill.artifact.compiled import Compiled
from modelmill.artifact.open import OpenedVersion
from modelmill.compress.formats.exported import in_order
from modelmill.compress.graph.tensors import Inputs
from modelmill.serve.compiled import machine
from modelmill.serve.cpus import usable_cpus
from modelmill.serve.optimize.apply import otherwise

log = logging.getLogger(__name__)
ENVIRONMENT = "MODELMILL_COMPILED"
"""Set to 0, no machine code is loaded."""
MAX_BYTES = 256 << 20
MAX_REASON_CHARACTERS = 300
MOST_ROUNDS, ENOUGH_SECONDS = 20, 0.05
Shapes = Sequence[tuple[int, int]]


class Unfit(Exception):
    """Why the machine code is not served."""


def best(opened: OpenedVersion, *, plain: nn.Module, served: nn.Module, example: Inputs) -> tuple[nn.Module, Shapes]:
    """`served`, or the version's machine code for `plain` with the shapes to warm up with; never raises."""
    if not opened.variant.compiled:
        return served, ()
    began = time.perf_counter()
    try:
        if os.environ.get(ENVIRONMENT) == "0":
            raise Unfit(f"{ENVIRONMENT} is 0")
        compiled = _fitting(opened.variant.compiled)
        with torch.no_grad():
            module, gain = _proven(opened, compiled, plain=plain, served=served, example=example)
    except Exception as error:
        told = str(error) if isinstance(error, Unfit) else f"{type(error).__name__}: {error}"
        log.warning("the compiled module is not used: %s", told[:MAX_REASON_CHARACTERS])
        return served, ()
    log.info("the compiled module is served, %s; took %.3f s", gain, time.perf_counter() - began)
    return module, [(one.rows, one.length) for one in compiled.measured]


def release() -> str:
    """torch's, without the part that tells its builds for different GPUs apart: what we call is the same in all of them."""
    return torch.__version__.partition("+")[0]


def _fitting(found: Sequence[Compiled]) -> Compiled:
    here = machine.instructions()
    reasons = []
    for compiled in sorted(found, key=lambda one: len(one.instructions), reverse=True):
        missing = sorted(set(compiled.instructions) - here)
        if compiled.torch != release():
            reasons.append(f"it is for torch {compiled.torch}, this is {release()}")
        elif missing:
            reasons.append(f"this processor has no {', '.join(missing)}")
        else:
            return compiled
    raise Unfit("; ".join(dict.fromkeys(reasons)))


def _proven(
    opened: OpenedVersion, compiled: Compiled, *, plain: nn.Module, served: nn.Module, example: Inputs
) -> tuple[nn.Module, str]:
    if any(tensor.device.type != "cpu" for tensor in example):
        raise Unfit("it is for processors, and the model is on a GPU")
    if (size := opened.manifest.file(compiled.file).bytes) > MAX_BYTES:
        raise Unfit(f"it has {size} bytes, at most {MAX_BYTES} are loaded")
    from modelmill.serve.compiled.module import CompiledModule  # here: a torch without what it calls serves as ever

    signature = opened.manifest.signature
    library = opened.fetch(compiled.file)
    module = CompiledModule(library, compiled, plain=plain, signature=signature, instances=usable_cpus())
    if reason := otherwise(in_order(module, signature), in_order(plain, signature), example):
        raise Unfit(reason)
    ours, theirs = _seconds(module, served, example)
    if ours >= theirs:
        raise Unfit(f"it is not faster: {ours * 1e3:.3f} ms, and {theirs * 1e3:.3f} without it")
    return module, f"{ours * 1e3:.3f} ms instead of {theirs * 1e3:.3f}"


def _seconds(ours: nn.Module, theirs: nn.Module, inputs: Inputs) -> tuple[float, float]:
    """The best of a few turns, by the clock and with the pod's threads: machine code has one, torch many."""
    calls = [partial(one, *inputs) for one in (ours, theirs)]
    best = [float("inf")] * len(calls)
    end = time.perf_counter() + ENOUGH_SECONDS
    for turn in range(MOST_ROUNDS):
        for index, call in enumerate(calls):
            began = time.perf_counter()
            call()
            best[index] = min(best[index], time.perf_counter() - began)
        if turn and time.perf_counter() > end:
            break
    return best[0], best[1]
