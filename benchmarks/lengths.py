"""The batch former alone on rows of different lengths: `python -m benchmarks.lengths`.

64 clients, each with one row under way, and an executor in virtual time whose batch costs a constant and its padded elements:
24 and 0.117 ms each, as the encoder of bench-serving on one Zen 5 core. The limit is all rows sorted by length in the best
batches of one size, which no server that has to answer in time could have. Exact: the same figures every time.
"""

import math
import random

from modelmill.serve.former import BatchFormer, Item, Policy

CLIENTS, ROWS, SECONDS = 64, 512, 200.0
OVERHEAD, ELEMENT_SECONDS = 24, 0.117e-3


def lengths() -> list[int]:
    """Log-normal, median 24, clipped to 8-128."""
    source = random.Random(1)
    return [min(128, max(8, int(source.lognormvariate(math.log(24), 0.6)))) for _ in range(ROWS)]


def seconds(rows: list[int]) -> float:
    return ELEMENT_SECONDS * (OVERHEAD + max(rows) * len(rows))


def limit(rows: list[int]) -> float:
    """Rows a second."""
    ordered = sorted(rows)
    sizes = (8, 16, 32)
    return max(len(rows) / sum(seconds(ordered[i : i + size]) for i in range(0, len(rows), size)) for size in sizes)


def served(rows: list[int], *, window: int) -> tuple[float, float, float]:
    """Rows a second, the median latency in seconds, and p99 over p50."""
    former: BatchFormer[Item] = BatchFormer(Policy(max_rows=32, max_latency_seconds=0.005, queue_limit=1000, window=window))
    now, taken, latencies = 0.0, 0, []
    for _ in range(CLIENTS):
        former.offer([Item((), 1, now, rows[taken % ROWS])])
        taken += 1
    while now < SECONDS:
        batch = former.take(now)
        now += seconds([item.length for item in batch])
        latencies += [now - item.arrived for item in batch]
        for _ in batch:
            former.offer([Item((), 1, now, rows[taken % ROWS])])
            taken += 1
    latencies.sort()
    p50, p99 = (latencies[int(share * len(latencies))] for share in (0.5, 0.99))
    return len(latencies) / now, p50, p99 / p50


def main() -> None:
    rows = lengths()
    best = limit(rows)
    print(f"limit: {best:.1f} rows/s\nwindow     rows/s  of limit    p50 s  p99/p50")
    for window in (16, 32, 40, 48, 56, 64):
        rate, p50, ratio = served(rows, window=window)
        print(f"{window:6}{rate:11.1f}{rate / best:10.3f}{p50:9.3f}{ratio:9.2f}")


if __name__ == "__main__":
    main()
