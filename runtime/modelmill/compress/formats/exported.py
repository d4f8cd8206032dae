"""What a module is exported as: its outputs in the signature's order, and dimensions free where the signature's are."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from modelmill.recipe.check import TORCH
from modelmill.signature import Signature

ROWS, FREE = 3, 8
"""Of the example that is traced: neither 0 nor 1, which tracing would take for constants."""
PREFIX = "module."
"""Before the names of the module's tensors."""


class InOrder(nn.Module):
    """Outputs as a tuple in the signature's order, whatever the module returns."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.module, self.names = module, names

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.module(*inputs)
        if isinstance(outputs, Mapping):
            return tuple(outputs[name] for name in self.names)
        return tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)


def in_order(module: nn.Module, signature: Signature) -> InOrder:
    return InOrder(module, [tensor.name for tensor in signature.outputs])


def example(signature: Signature, *, rows: int = ROWS, length: int = FREE) -> tuple[torch.Tensor, ...]:
    """Zeros; `length` is the size of all free dimensions but the rows."""
    sizes = [(rows, *(length if size == -1 else size for size in tensor.shape[1:])) for tensor in signature.inputs]
    return tuple(torch.zeros(size, dtype=TORCH[t.datatype]) for size, t in zip(sizes, signature.inputs, strict=True))


def free_dimensions(signature: Signature) -> tuple[tuple[dict[int, Any], ...]]:
    """For torch.export, of a module that takes `*inputs`."""
    free = [{at: torch.export.Dim.DYNAMIC for at, size in enumerate(t.shape) if size == -1} for t in signature.inputs]
    return (tuple(free),)


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Without warnings, and without what this part of torch says to its own developers."""
    log = logging.getLogger(name)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
