"""Which lengths are padded together. Not here: padding itself (test_ragged)."""

from hypothesis import given
from hypothesis import strategies as st

from modelmill.serve.similar import AGE, OLD, most_work

ITEMS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 128)), min_size=1, max_size=40)


def chosen(lengths: list[int], *, max_rows: int = 8, max_elements: int = 0, overhead: int = 32) -> list[int]:
    items = [(1, length) for length in lengths]
    picked = most_work(items, max_rows=max_rows, max_items=len(items), max_elements=max_elements, overhead=overhead)
    return sorted(lengths[i] for i in picked)


def test_equal_lengths_fill_the_batch() -> None:
    assert chosen([20] * 12) == [20] * 8


def test_a_long_row_does_not_make_short_ones_as_long() -> None:
    assert chosen([10, 128, 11, 12, 10, 9, 11, 10]) == [9, 10, 10, 10, 11, 11, 12]
    assert chosen([128, 10, 11, 12, 10, 9, 11, 10]) == [128]


def test_a_little_padding_is_better_than_another_execution() -> None:
    assert chosen([30, 31, 33]) == [30, 31, 33]


def test_the_padded_elements_are_bounded() -> None:
    assert chosen([16] * 8, max_elements=64) == [16] * 4


@given(
    items=ITEMS,
    max_rows=st.integers(1, 16),
    max_items=st.integers(1, 16),
    max_elements=st.integers(0, 512),
    overhead=st.integers(1, 64),
)
def test_the_first_is_always_in_the_bounds_hold_and_no_neighbourhood_does_more(
    items: list[tuple[int, int]], max_rows: int, max_items: int, max_elements: int, overhead: int
) -> None:
    picked = most_work(items, max_rows=max_rows, max_items=max_items, max_elements=max_elements, overhead=overhead)
    assert 0 in picked
    assert len(set(picked)) == len(picked)

    def allowed(batch: list[int]) -> bool:
        rows, longest = sum(items[i][0] for i in batch), max(items[i][1] for i in batch)
        fits = rows <= max_rows and len(batch) <= max_items and not 0 < max_elements < rows * longest
        return len(batch) == 1 or fits

    def work(batch: list[int]) -> float:
        padded = sum(items[i][0] for i in batch) * max(items[i][1] for i in batch)
        real = [items[i][0] * items[i][1] * (1 + AGE * max(1 - i / OLD, 0)) for i in batch]
        return sum(real) / (overhead + padded)

    assert allowed(picked)
    order = sorted(range(len(items)), key=lambda i: items[i][1])
    runs = (order[a:b] for a in range(len(order)) for b in range(a + 1, len(order) + 1))
    assert work(picked) >= max(work(run) for run in runs if 0 in run and allowed(run)) - 1e-12
