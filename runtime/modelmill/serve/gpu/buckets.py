"""The shapes of batches that have a CUDA graph each: so many rows, and of lengths that are padded, so long. Pure.

Rows go in powers of two: a GPU takes nearly as long for 5 rows as for 8. Lengths go in smaller steps, at most a half more than is
needed, because a large batch costs what it holds. That makes at most 60 graphs up to 32 rows.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from modelmill.serve.optimize.saturation import powers_of_two
from modelmill.serve.rows import Rows
from modelmill.signature import Signature

LENGTHS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Longer batches compute for so long that starting their kernels one by one costs little."""


@dataclass(frozen=True, slots=True, order=True)
class Bucket:
    rows: int
    length: int = 0
    """0: nothing is padded."""


class Buckets:
    def __init__(self, signature: Signature, *, max_rows: int, longest: int) -> None:
        """`longest`: the length up to which rows may be padded."""
        free = [tensor for tensor in signature.inputs if -1 in tensor.shape[1:]]
        padded = all(tensor.pad is not None and tensor.shape[1:].count(-1) == 1 for tensor in free)
        self._axes = tuple((tensor.name, tensor.shape.index(-1, 1)) for tensor in free)
        self._rows = (*powers_of_two(below=max_rows), max_rows)
        self._lengths: Sequence[int] = (0,) if not free else [at for at in LENGTHS if at <= longest] if padded else ()

    def all(self) -> list[Bucket]:
        """The largest first: the memory that they need for a moment serves the smaller ones too."""
        return [Bucket(rows, length) for length in reversed(self._lengths) for rows in reversed(self._rows)]

    def of(self, many: Sequence[Rows]) -> Bucket | None:
        """The smallest that holds these rows; None where there is none."""
        length = max(map(self._length, many))
        row, column = bisect_left(self._rows, sum([rows.count for rows in many])), bisect_left(self._lengths, length)
        if row == len(self._rows) or column == len(self._lengths):
            return None
        return Bucket(self._rows[row], self._lengths[column])

    def _length(self, rows: Rows) -> int:
        sizes = {rows.arrays[name].shape[axis] for name, axis in self._axes} or {0}
        # Where inputs differ, an output's length would not tell which of them it follows: longer than any bucket.
        return sizes.pop() if len(sizes) == 1 else LENGTHS[-1] + 1
