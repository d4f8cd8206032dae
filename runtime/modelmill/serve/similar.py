"""Which rows of different lengths to pad together: the choice that does most real work in the time it takes.

A batch is padded to its longest row, so it costs rows times that length, and a constant for starting an execution.
Among the runs of neighbours in order of length that contain the first item, the one with the largest ratio of real
elements to that cost is taken: the idea of length bucketing, without fixed borders.
"""

from collections.abc import Sequence
from itertools import accumulate


def most_work(items: Sequence[tuple[int, int]], *, max_rows: int, max_items: int, max_elements: int, overhead: int) -> list[int]:
    """Indices into `items`, pairs of (rows, length of a row), of a batch that contains the first.

    `max_elements` bounds rows times the longest length, 0 = no bound; `overhead` is in elements. The first item may
    be larger than the bounds: then it goes alone.
    """
    order = sorted(range(len(items)), key=lambda i: items[i][1])
    at = order.index(0)
    rows = [0, *accumulate(items[i][0] for i in order)]
    real = [0, *accumulate(items[i][0] * items[i][1] for i in order)]
    best, chosen = 0.0, (at, at + 1)
    for stop in range(at + 1, len(order) + 1):
        longest = items[order[stop - 1]][1]
        for start in range(max(0, stop - max_items), at + 1):
            count = rows[stop] - rows[start]
            padded = count * longest
            if stop - start > 1 and (count > max_rows or (max_elements and padded > max_elements)):
                continue
            work = (real[stop] - real[start]) / (overhead + padded)
            if work > best:
                best, chosen = work, (start, stop)
    return order[chosen[0] : chosen[1]]
