"""Is a compiled module right for many numbers of rows, and worth having?"""

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import nn

from modelmill.artifact.compiled import Measured
from modelmill.compress.formats.exported import example, in_order
from modelmill.compress.graph.compare import accepts, differing, inputs_like, with_ones
from modelmill.compress.timing import NOISE, compare
from modelmill.failures import Fault
from modelmill.signature import Signature

SECONDS = 1.0
"""Of measuring, for each shape."""


def typical(module: nn.Module, signature: Signature, *, rows: int, length: int) -> tuple[torch.Tensor, ...]:
    """Random floats and whole numbers that are one, or zero where the module takes no ones."""
    inputs = inputs_like(example(signature, rows=rows, length=length), rows=rows)
    ones = with_ones(inputs)
    return ones if ones and accepts(module, ones) else inputs


class CannotRun(Fault):
    """The module itself fails with the shapes that were asked for."""

    reason = "CannotRun"


@torch.no_grad()
def check(plain: nn.Module, *, signature: Signature, shapes: Iterable[tuple[int, int]]) -> None:
    """Raises CannotRun."""
    for rows, length in shapes:
        try:
            plain(*typical(plain, signature, rows=rows, length=length))
        except Exception as error:  # whatever a module raises
            raise CannotRun(
                f"the model cannot run with {rows} rows of length {length}: {type(error).__name__}: {error}; name others in "
                f"--rows and --length"
            ) from error


@torch.no_grad()
def wrong(module: nn.Module, plain: nn.Module, *, signature: Signature, shapes: Iterable[tuple[int, int]]) -> str | None:
    """Where the compiled module answers otherwise, in words."""
    ours, theirs = in_order(module, signature), in_order(plain, signature)
    for rows, length in shapes:
        zeros = inputs_like(example(signature, rows=rows, length=length), rows=rows)
        for given in (zeros, with_ones(zeros)):
            if not given or not accepts(plain, given):
                continue
            if difference := differing(ours, theirs, inputs=given):
                return f"for {rows} rows of length {length} it answers otherwise: {difference}"
    return None


def measured(
    module: nn.Module, served: nn.Module, *, signature: Signature, shapes: Iterable[tuple[int, int]]
) -> tuple[Measured, ...]:
    """Beside what the server would run without it."""
    found = []
    for rows, length in shapes:
        inputs = typical(served, signature, rows=rows, length=length)
        ours, theirs = compare([partial(one, *inputs) for one in (module, served)], seconds=SECONDS)
        found.append(Measured(rows=rows, length=length, millis=ours * 1e3, served_millis=theirs * 1e3))
    return tuple(found)


def is_faster(found: Sequence[Measured]) -> bool:
    """For some shape, and for none slower, beyond what is noise."""
    ratios = [one.millis / one.served_millis for one in found]
    return min(ratios) < 1 - NOISE and max(ratios) <= 1 + NOISE
