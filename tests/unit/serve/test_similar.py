"""Which lengths are padded together. Not here: padding itself (test_ragged)."""

import math
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from modelmill.serve.similar import cheapest

ITEMS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 128)), min_size=1, max_size=9)


def chosen(lengths: list[int], *, max_rows: int = 8, max_elements: int = 0, overhead: int = 32) -> list[int]:
    items = [(1, length) for length in lengths]
    picked = cheapest(items, max_rows=max_rows, max_items=len(items), max_elements=max_elements, overhead=overhead)
    return sorted(lengths[i] for i in picked)


def test_equal_lengths_fill_the_batch() -> None:
    assert chosen([20] * 12) == [20] * 8


def test_equal_lengths_go_in_the_order_of_their_turn() -> None:
    assert sorted(cheapest([(1, 20)] * 12, max_rows=8, max_items=12, max_elements=0, overhead=32)) == list(range(8))


def test_a_long_row_does_not_make_short_ones_as_long() -> None:
    assert chosen([10, 128, 11, 12, 10, 9, 11, 10]) == [9, 10, 10, 10, 11, 11, 12]
    assert chosen([128, 10, 11, 12, 10, 9, 11, 10]) == [128]


def test_a_little_padding_is_better_than_another_execution() -> None:
    assert chosen([30, 31, 33]) == [30, 31, 33]


def test_what_would_pad_nothing_by_itself_is_padded_where_the_rest_would_pay_more() -> None:
    assert chosen([20, 20, 20, 20, 25], overhead=24) == [20, 20, 20, 20, 25]


def test_the_padded_elements_are_bounded() -> None:
    assert chosen([16] * 8, max_elements=64) == [16] * 4


@given(
    items=ITEMS,
    max_rows=st.integers(1, 16),
    max_items=st.integers(1, 9),
    max_elements=st.integers(0, 512),
    overhead=st.integers(1, 64),
)
def test_the_first_is_always_in_the_bounds_hold_and_no_batches_of_neighbours_take_less_time(
    items: list[tuple[int, int]], max_rows: int, max_items: int, max_elements: int, overhead: int
) -> None:
    bounds = {"max_rows": max_rows, "max_items": max_items, "max_elements": max_elements}
    picked = cheapest(items, **bounds, overhead=overhead)
    assert 0 in picked
    assert len(set(picked)) == len(picked)

    def cost(batch: list[tuple[int, int]]) -> float:
        rows, longest = sum(rows for rows, _ in batch), max(length for _, length in batch)
        fits = rows <= max_rows and len(batch) <= max_items and not 0 < max_elements < rows * longest
        return overhead + rows * longest if fits or len(batch) == 1 else math.inf

    def least(waiting: Iterable[int]) -> float:
        # Items of different rows may have one length: then neighbours are those in the order in which they are left.
        ordered = [items[i] for i in sorted(waiting, key=lambda i: (items[i][1], -i))]
        best = [0.0]
        for stop in range(1, len(ordered) + 1):
            best.append(min(best[start] + cost(ordered[start:stop]) for start in range(stop)))
        return best[-1]

    rest = set(range(len(items))) - set(picked)
    assert cost([items[i] for i in picked]) + least(rest) <= least(range(len(items)))
