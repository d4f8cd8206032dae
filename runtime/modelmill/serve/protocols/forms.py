"""Forms of requests: what was found out about one holds for all that differ from it in the contents of raw tensors only.

A client sends the same names, datatypes, shapes and parameters again and again; to check them is most of the work of a small
request. Equal bytes have equal meaning, so nothing is trusted that was not checked once.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from modelmill.datatypes import Array
from modelmill.serve.rows import Rows

MOST_FORMS = 512
"""Clients choose them: where there are more, all are forgotten and learnt anew."""
MOST_BYTES = 4 << 10
"""Of what describes the tensors."""
K = TypeVar("K", bound=Hashable)
F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the tensors of a request lie, and what is known of the rows they make."""

    tensors: Sequence[tuple[str, np.dtype[np.generic], tuple[int, ...], int]]
    """Name, dtype, shape, and the offset in bytes."""
    count: int
    key: Hashable
    length: int

    def rows(self, content: bytes | bytearray | memoryview) -> Rows:
        """Views of `content`."""
        arrays: dict[str, Array] = {}
        for name, dtype, shape, offset in self.tensors:
            arrays[name] = np.ndarray(shape, dtype, content, offset)
        return Rows(arrays, self.count, self.key, self.length)


def layout(rows: Rows, offsets: Mapping[str, int]) -> Layout | None:
    """Of rows that were checked, whose tensors lie at `offsets`; None where their contents must be checked each time."""
    if any(array.dtype.kind in "bO" for array in rows.arrays.values()):
        return None
    tensors = [(name, array.dtype, array.shape, offsets[name]) for name, array in rows.arrays.items()]
    return Layout(tensors, rows.count, rows.key, rows.length)


class Forms(Generic[K, F]):
    """The forms seen last, by what tells them apart."""

    def __init__(self) -> None:
        self._known: dict[K, F] = {}
        self.get = self._known.get

    def learn(self, key: K, form: F) -> None:
        if len(self._known) >= MOST_FORMS:
            self._known.clear()
        self._known[key] = form
