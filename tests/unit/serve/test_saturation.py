"""The batch size from which on more rows only add latency, with made-up run times."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from modelmill.serve.optimize.saturation import saturating_rows

MOST = st.integers(1, 300)
COSTS = st.floats(1e-6, 10.0)


def line(fixed: float, per_row: float) -> Callable[[int], float]:
    """A batch costs something at all, and something by row."""
    return lambda rows: fixed + per_row * rows


def throughput(seconds_of: Callable[[int], float], rows: int) -> float:
    return rows / seconds_of(rows)


def candidates(most: int) -> list[int]:
    return sorted({most, *(1 << bit for bit in range(9) if 1 << bit <= most)})


def test_the_measured_encoder_saturates_at_eight_rows() -> None:
    seconds = {1: 0.0141, 2: 0.0215, 4: 0.0372, 8: 0.0670, 16: 0.1408, 32: 0.2759}
    assert saturating_rows(seconds.__getitem__, most=32) == 8


@given(MOST, COSTS, COSTS)
def test_it_is_the_smallest_candidate_that_is_good_enough(most: int, fixed: float, per_row: float) -> None:
    cost = line(fixed, per_row)
    found, best = saturating_rows(cost, most=most), max(throughput(cost, rows) for rows in candidates(most))
    assert found in candidates(most)
    assert throughput(cost, found) >= 0.97 * best
    assert all(throughput(cost, rows) < 0.97 * best for rows in candidates(most) if rows < found)


@given(MOST, COSTS, COSTS, st.floats(1.0, 100.0))
def test_dearer_batches_never_want_fewer_rows(most: int, fixed: float, per_row: float, times: float) -> None:
    assert saturating_rows(line(fixed * times, per_row), most=most) >= saturating_rows(line(fixed, per_row), most=most)


@given(MOST, COSTS, COSTS, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_more_than_enough_never_wants_fewer_rows(most: int, fixed: float, per_row: float, one: float, other: float) -> None:
    less, more = (saturating_rows(line(fixed, per_row), most=most, enough=enough) for enough in sorted((one, other)))
    assert less <= more


@given(MOST, COSTS, COSTS, st.data())
def test_slow_runs_do_not_count_where_each_size_has_a_good_one(
    most: int, fixed: float, per_row: float, data: st.DataObject
) -> None:
    cost, runs = line(fixed, per_row), dict[int, int]()
    good = {rows: data.draw(st.integers(0, 2)) for rows in candidates(most)}

    def noisy(rows: int) -> float:
        run = runs[rows] = runs.get(rows, -1) + 1
        return cost(rows) * (1.0 if run == good[rows] else data.draw(st.floats(1.0, 50.0)))

    assert saturating_rows(noisy, most=most) == saturating_rows(cost, most=most)


def test_sizes_take_turns() -> None:
    asked: list[int] = []

    def seconds_of(rows: int) -> float:
        asked.append(rows)
        return 1.0

    saturating_rows(seconds_of, most=6)
    assert asked[:8] == [1, 2, 4, 6, 1, 2, 4, 6]
