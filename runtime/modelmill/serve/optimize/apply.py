"""A module made faster for serving on CPU in fp32, and compared with itself before it is trusted."""

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from modelmill.compress.graph.compare import accepts, cpu_seconds, differing, inputs_like, with_ones
from modelmill.compress.graph.fold import fold
from modelmill.compress.graph.pairs import pairs
from modelmill.compress.graph.tensors import Inputs, clone, let_go, tensors_of
from modelmill.compress.mapping import drop_pages
from modelmill.serve.optimize import convolutions
from modelmill.serve.optimize.floats import swap
from modelmill.serve.optimize.rewrite import programs, rewrite
from modelmill.serve.optimize.small import image_sizes, narrow

log = logging.getLogger(__name__)
MAX_REASON_CHARACTERS = 300
TOO_SLOW, TOO_LATE = 1.1, 0.005
"""Times the untouched module's time, and seconds on top: both are measured once only."""
PLANS = ((True, True, True), (True, True, False), (True, False, False), (False, False, False))
"""Channels-last, small images, and the forward written anew (attention, programs, prepacked layers), besides folding; the first
that is right and not slower is served. A module may read the weight of a convolution, or view an activation in another
shape, which channels-last does not allow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimized:
    module: nn.Module
    """To be served; the given one when nothing could be done. The given one's weights are not held by a rewritten one."""
    notes: tuple[str, ...]
    """What was done, what was left and why, in words for logs and the status."""


def optimize(module: nn.Module, *, example: Inputs) -> Optimized:
    """The module rewritten for inference, for calls with as many tensors as `example` has; never raises.

    `example`: inputs [N, ...] that the module accepts. The rewritten module must answer like the untouched one on N
    rows and on another number of rows, in less time. Its calls are for inference, without gradients.
    """
    began = time.perf_counter()
    try:
        with torch.no_grad():
            optimized = _optimized(module, example)
    except Exception as error:
        log.debug("a module cannot be optimized", exc_info=error)
        optimized = _as_it_is(module, f"{type(error).__name__}: {error}")
    log.info("%s; took %.3f s", "; ".join(optimized.notes), time.perf_counter() - began)
    return optimized


def _optimized(module: nn.Module, example: Inputs) -> Optimized:
    if reason := _refusal(module):
        return _as_it_is(module, reason)
    probe = clone(module)
    convolves = any(isinstance(part, nn.Conv2d) for part in module.modules())
    sizes = image_sizes(probe, inputs_like(example, rows=1)) if convolves else {}
    found = pairs(probe, inputs=len(example))
    unseen = tuple(f"batch norms in {path or 'the model'} stay: {reason}" for path, reason in found.unseen.items())
    rejected: dict[str, str] = {}
    for turned, narrowed, rewritten in PLANS:
        candidate: nn.Module = clone(module)
        done = {"batch norms folded into convolutions": fold(candidate, found.found)}
        if turned:
            done["convolutions channels-last"] = convolutions.turn(candidate)
        if narrowed:
            done["convolutions of small images as products"] = narrow(candidate, sizes)
        if rewritten:
            candidate, done["activations and attentions by own functions"] = swap(candidate, inputs=len(example))
            candidate, counts = rewrite(candidate, inputs=len(example), sizes=sizes)
            done |= counts
        text = ", ".join(f"{count} {what}" for what, count in done.items() if count)
        if not text or text in rejected:
            continue
        reason = _objection(candidate, module, example)
        if reason is None:
            if let_go(candidate):
                for program in programs(candidate):
                    program.forget()
            _give_back(module, candidate)
            return Optimized(module=candidate, notes=(text, *_told(rejected), *unseen))
        rejected[text] = reason
    return Optimized(module=module, notes=("the model runs as it is", *_told(rejected), *unseen))


def _give_back(module: nn.Module, candidate: nn.Module) -> None:
    """Pages of mapped files that only the untouched module needs."""
    kept = {id(tensor) for tensor in tensors_of(candidate)}
    for tensor in tensors_of(module):
        if id(tensor) not in kept and tensor.is_contiguous():
            drop_pages(tensor)


def _objection(candidate: nn.Module, module: nn.Module, example: Inputs) -> str | None:
    given = inputs_like(example, rows=example[0].shape[0])
    try:
        if difference := otherwise(candidate, module, example):
            return difference
        if programs(candidate):
            candidate(*given)  # a program makes its plan at the first call
        ours, plain = (cpu_seconds(one, given) for one in (candidate, module))
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:MAX_REASON_CHARACTERS]
    return f"it is slower: {ours * 1e3:.1f} ms instead of {plain * 1e3:.1f}" if ours > TOO_SLOW * plain + TOO_LATE else None


def otherwise(candidate: nn.Module, module: nn.Module, example: Inputs) -> str | None:
    """Where the candidate answers otherwise than the module, for as many rows as the example has or another number."""
    rows = example[0].shape[0]
    tried = [inputs_like(example, rows=count) for count in (rows, 1 if rows > 1 else 3)]
    tried += [ones for ones in (with_ones(tried[0]),) if ones and accepts(module, ones)]
    for inputs in tried:
        if difference := differing(candidate, module, inputs=inputs):
            return f"it answers otherwise for {inputs[0].shape[0]} rows: {difference}"
    return None


def _told(rejected: Mapping[str, str]) -> Iterator[str]:
    return (f"not {done}: {reason}" for done, reason in rejected.items())


def _as_it_is(module: nn.Module, reason: str) -> Optimized:
    return Optimized(module=module, notes=(f"the model runs as it is: {reason}"[:MAX_REASON_CHARACTERS],))


def _refusal(module: nn.Module) -> str | None:
    if module.training:
        return "it is in training mode"
    for tensor in tensors_of(module):
        if tensor.device.type != "cpu":
            return f"its weights are on {tensor.device}"
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            return f"its weights are {tensor.dtype}"
    return None
