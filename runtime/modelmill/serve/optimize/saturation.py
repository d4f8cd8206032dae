"""How many rows a batch needs before more rows bring no more throughput, only latency."""

from collections.abc import Callable


def saturating_rows(seconds_of: Callable[[int], float], *, most: int, rounds: int = 3, enough: float = 0.97) -> int:
    """The smallest of 1, 2, 4, ... and `most` with at least `enough` of the best throughput.

    `seconds_of(rows)` runs one batch of so many rows and says how long it took. Each size runs `rounds` times and counts
    by its best, because the others tell about the neighbours; sizes take turns, so that a slow spell meets all of them.
    """
    sizes = [*powers_of_two(below=most), most]
    best = dict.fromkeys(sizes, float("inf"))
    for _ in range(rounds):
        for rows in sizes:
            best[rows] = min(best[rows], seconds_of(rows))
    throughput = {rows: rows / seconds for rows, seconds in best.items()}
    return next(rows for rows in sizes if throughput[rows] >= enough * max(throughput.values()))


def powers_of_two(*, below: int) -> list[int]:
    return [1 << bit for bit in range(max(below - 1, 0).bit_length())]
