"""Which rows of different lengths to pad together: the choice that does most real work in the time it takes.

A batch is padded to its longest row, so it costs rows times that length, and a constant for starting an execution.
Among the runs of neighbours in order of length that contain the first item, the one with the largest ratio of real
elements to that cost is taken: the idea of length bucketing, without fixed borders. Elements of items that came earlier
count for more, so that a rare length does not wait until it is the first (`benchmarks/lengths.py` has the figures).
"""

from collections.abc import Sequence

import numpy as np

AGE, OLD = 0.5, 48
"""The first item's elements count by so much more than those of one that has so many before it."""


def most_work(items: Sequence[tuple[int, int]], *, max_rows: int, max_items: int, max_elements: int, overhead: int) -> list[int]:
    """Indices into `items`, pairs of (rows, length of a row) in the order of their turn, of a batch that contains the first.

    `max_elements` bounds rows times the longest length, 0 = no bound; `overhead` is in elements. The first item may
    be larger than the bounds: then it goes alone.
    """
    if len(items) == 1:
        return [0]
    given = np.array(items)
    order = np.argsort(given[:, 1], kind="stable")
    at = int(np.flatnonzero(order == 0)[0])
    rows, lengths = given[order].T
    ages = 1 + AGE * np.maximum(1 - order / OLD, 0)
    # Runs from `start` up to and without `stop`: one by columns, the other by lines.
    start, stop = np.arange(at + 1)[None, :], np.arange(at + 1, len(items) + 1)[:, None]
    before, worth = (np.concatenate(([0], np.cumsum(each))) for each in (rows, rows * lengths * ages))
    count = before[stop] - before[start]
    padded = count * lengths[stop - 1]
    work = (worth[stop] - worth[start]) / (overhead + padded)
    fits = (count <= max_rows) & (stop - start <= max_items) & (padded <= (max_elements or np.inf))
    best = int(np.argmax(np.where(fits | (stop - start == 1), work, -1)))
    line, column = divmod(best, at + 1)
    return [int(i) for i in order[column : at + 1 + line]]
