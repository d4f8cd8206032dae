"""Do two modules answer the same, in fp32 up to the order of sums? And how long does one take?"""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from modelmill.compress.graph.tensors import Inputs
from modelmill.compress.weight import exact

TOLERANCE = 1e-4
"""Of the output's largest value. Reordered fp32 sums differ by about 1e-7 of their largest term times the square root of
their number, a layer about 1e-6, a hundred layers about 1e-5; a wrong rewriting is off by far more than 1e-4."""
WHOLE_NUMBERS_OFF = 1000
"""One in so many may differ: in a mask or a map of classes, two scores can be as good as equal."""


def differing(module: nn.Module, plain: nn.Module, *, inputs: Inputs) -> str | None:
    """Where the answers differ, in words; None when they agree."""
    with exact():
        ours, expected = (list(_tensors(one(*(tensor.clone() for tensor in inputs)), "")) for one in (module, plain))
    if [name for name, _ in ours] != [name for name, _ in expected]:
        return f"outputs {[name for name, _ in ours]} instead of {[name for name, _ in expected]}"
    pairs = ((name, a, b) for (name, a), (_, b) in zip(ours, expected, strict=True))
    return next((f"output {name or 'of the model'}: {found}" for name, a, b in pairs if (found := difference(a, b))), None)


def difference(ours: torch.Tensor, expected: torch.Tensor, *, tolerance: float = TOLERANCE) -> str | None:
    """In words; None where they agree up to `tolerance`, of the largest value."""
    if ours.shape != expected.shape or ours.dtype != expected.dtype:
        return f"{ours.dtype} {list(ours.shape)} instead of {expected.dtype} {list(expected.shape)}"
    if not expected.is_floating_point():
        others = int((ours != expected).sum())
        return f"{others} of {expected.numel()} values differ" if others > expected.numel() // WHOLE_NUMBERS_OFF else None
    finite, same = expected.isfinite(), (ours == expected) | (ours.isnan() & expected.isnan())
    if not bool((same | finite).all()):
        return "values differ where they are not finite"
    largest, off = _largest(expected[finite]), _largest((ours - expected)[finite])
    # Written so that a difference that is not a number is one.
    agrees = off <= largest * max(tolerance, torch.finfo(expected.dtype).eps)
    return None if agrees else f"off by {off:.2g}, the largest value is {largest:.2g}"


def _largest(values: torch.Tensor) -> float:
    return values.abs().max().item() if values.numel() else 0.0


def _tensors(output: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(output, torch.Tensor):
        yield name, output
    elif isinstance(output, Mapping):
        for key, value in output.items():
            yield from _tensors(value, f"{name}.{key}" if name else str(key))
    elif isinstance(output, tuple | list):
        for index, value in enumerate(output):
            yield from _tensors(value, f"{name}.{index}" if name else str(index))
    else:
        raise TypeError(f"an output of type {type(output).__name__} cannot be compared")


def cpu_seconds(module: nn.Module, inputs: Inputs) -> float:
    """Of the processor, not of the clock: a pod whose processor time is limited stands still in between."""
    began = time.process_time()
    module(*inputs)
    return time.process_time() - began


def inputs_like(example: Inputs, *, rows: int) -> tuple[torch.Tensor, ...]:
    """The example's rows, repeated. Floats that are all zero show nothing and become random, from 0 to 1."""
    random = torch.Generator().manual_seed(0)
    result = []
    for tensor in example:
        if tensor.is_floating_point() and not tensor.any():
            result.append(torch.rand((rows, *tensor.shape[1:]), generator=random, dtype=tensor.dtype))
        else:
            result.append(tensor[torch.arange(rows) % tensor.shape[0]])
    return tuple(result)


def with_ones(inputs: Inputs) -> tuple[torch.Tensor, ...]:
    """With whole numbers that are all zero made one, since a mask of zeros shows nothing; () where there are none."""
    zeros = [not tensor.is_floating_point() and not tensor.any() for tensor in inputs]
    if not any(zeros):
        return ()
    return tuple(torch.ones_like(one) if zero else one for one, zero in zip(inputs, zeros, strict=True))


def accepts(module: nn.Module, inputs: Inputs) -> bool:
    """Whether the module can be called with these: whatever it raises says that it cannot."""
    try:
        module(*inputs)
    except Exception:
        return False
    return True
