"""Page-locked host memory of one instance: where its batches' rows are joined for the device, and their answers arrive.

It is as large as the largest batch so far and stays. Nothing is shared with the batch before: that one has been waited for.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from modelmill.datatypes import Array
from modelmill.recipe.check import TORCH
from modelmill.serve.rows import Rows
from modelmill.serve.shapes import put
from modelmill.signature import Signature, Tensor


class Staging:
    def __init__(self, signature: Signature, pinned: Callable[[int], torch.Tensor]) -> None:
        self._pinned = pinned
        self._inputs = signature.inputs
        self._outputs = signature.outputs
        self._memory: dict[str, torch.Tensor] = {}

    def join(self, many: Sequence[Rows], *, length: int = 0) -> tuple[Rows, list[torch.Tensor]]:
        """One batch of all, twice: as rows, and as tensors of the same memory. Free dimensions are as long as `length`, or
        as the longest row."""
        count = sum([rows.count for rows in many])
        tensors, arrays = [], {}
        for tensor in self._inputs:
            pieces = [rows.arrays[tensor.name] for rows in many]
            staged = self._tensor(f"input {tensor.name}", (count, *_inner(tensor, pieces, length)), TORCH[tensor.datatype])
            whole = numbers(staged)
            if any(piece.shape[1:] != whole.shape[1:] for piece in pieces):
                whole.fill(tensor.pad)
            put(whole, pieces)
            tensors.append(staged)
            arrays[tensor.name] = whole
        return Rows(arrays, count, many[0].key, length or max(rows.length for rows in many)), tensors

    def fetch(self, results: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Starts copying outputs, in the signature's order, from the device: to where this says, once that was waited for."""
        fetched = []
        for tensor, result in zip(self._outputs, results, strict=True):
            there = self._tensor(f"output {tensor.name}", tuple(result.shape), result.dtype)
            fetched.append(there.copy_(result, non_blocking=True))
        return fetched

    def _tensor(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        size = int(np.prod(shape)) * dtype.itemsize
        memory = self._memory.get(name)
        if memory is None or memory.numel() < size:
            # In powers of two: locking pages takes as long as a batch, and growing byte by byte would do it often.
            memory = self._memory[name] = self._pinned(1 << max(size - 1, 0).bit_length())
        return memory[:size].view(dtype).view(shape)


def numbers(tensor: torch.Tensor) -> Array:
    """The same memory as numpy has it: bits of bfloat16 in uint16."""
    array: Array = (tensor.view(torch.uint16) if tensor.dtype is torch.bfloat16 else tensor).numpy()
    return array


def _inner(tensor: Tensor, pieces: Sequence[Array], length: int) -> tuple[int, ...]:
    longest = (max(sizes) for sizes in zip(*(piece.shape[1:] for piece in pieces), strict=True))
    return tuple(length or size if free == -1 else size for free, size in zip(tensor.shape[1:], longest, strict=True))
