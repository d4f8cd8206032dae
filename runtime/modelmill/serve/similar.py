"""Which rows of different lengths to pad together: the batches of all that wait which together take least time.

A batch is padded to its longest row, so it costs rows times that length, and a constant for starting an execution. In order of
length the cheapest batches are runs of neighbours, found exactly by dynamic programming (batching with the longest job's
time: Brucker and others, "Scheduling a batching machine", 1998); the one that contains the first item goes. It is length
bucketing without fixed borders: a batch that looked best by itself would leave the others' worse (`benchmarks/lengths.py`).
"""

from collections.abc import Sequence


def cheapest(items: Sequence[tuple[int, int]], *, max_rows: int, max_items: int, max_elements: int, overhead: int) -> list[int]:
    """Indices into `items`, pairs of (rows, length of a row) in the order of their turn, of a batch that contains the first.

    `max_elements` bounds rows times the longest length, 0 = no bound; `overhead` is in elements. An item may be larger
    than the bounds: then it goes alone.
    """
    # Among equals the first come last: what does not fill a batch is left at the beginning.
    order = sorted(range(len(items)), key=lambda i: (items[i][1], -i))
    starts = _starts([items[i] for i in order], max_rows, max_items, max_elements or float("inf"), overhead)
    first, stop = order.index(0), len(order)
    while (start := starts[stop - 1]) > first:
        stop = start
    return order[start:stop]


def _starts(items: Sequence[tuple[int, int]], max_rows: int, max_items: int, max_elements: float, overhead: int) -> list[int]:
    """For each beginning of `items`, in order of length, where its last batch starts if all are as cheap as can be."""
    rows_before, costs, starts = [0], [0.0], list[int]()
    start = 0
    for stop, (rows, length) in enumerate(items, 1):
        upto = rows_before[-1] + rows
        # The best start never moves back as the end moves on, for costs of this kind (the quadrangle inequality).
        while start < stop - 1 and not (
            upto - rows_before[start] <= max_rows
            and stop - start <= max_items
            and (upto - rows_before[start]) * length <= max_elements
        ):
            start += 1
        best = costs[start] + (upto - rows_before[start]) * length
        for later in range(start + 1, stop):
            cost = costs[later] + (upto - rows_before[later]) * length
            if cost < best:
                best, start = cost, later
        rows_before.append(upto)
        costs.append(best + overhead)
        starts.append(start)
    return starts
