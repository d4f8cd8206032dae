"""Which inputs machine code was made for.

It does not look itself: two lengths that differ where one was meant, or a longer row than any that was thought of, would
make it read memory that is not its own.
"""

from collections.abc import Sequence

import torch

from modelmill.artifact.compiled import Compiled
from modelmill.recipe.check import TORCH
from modelmill.signature import Signature

UNLIMITED = 1 << 62


class Sizes:
    def __init__(self, compiled: Compiled, signature: Signature) -> None:
        """Raises ValueError where both are not of one model."""
        self._inputs = tuple(
            (TORCH[tensor.datatype], tuple(int(size) if size.isdecimal() else size for size in sizes))
            for tensor, sizes in zip(signature.inputs, compiled.dimensions, strict=True)
        )
        free = {size for _, sizes in self._inputs for size in sizes if isinstance(size, str)}
        if free != compiled.limits.keys() or not all(1 <= len(limits) <= 2 for limits in compiled.limits.values()):
            raise ValueError("limits and free dimensions are not the same")
        self._limits = tuple((name, low, high[0] if high else UNLIMITED) for name, (low, *high) in compiled.limits.items())

    def admit(self, inputs: Sequence[torch.Tensor]) -> bool:
        free: dict[str, int] = {}
        for tensor, (dtype, sizes) in zip(inputs, self._inputs, strict=True):
            if tensor.dtype is not dtype or not tensor.is_cpu or not tensor.is_contiguous() or tensor.dim() != len(sizes):
                return False
            for found, wanted in zip(tensor.shape, sizes, strict=True):
                if (free.setdefault(wanted, found) if isinstance(wanted, str) else wanted) != found:
                    return False
        return all(low <= free[name] <= high for name, low, high in self._limits)
