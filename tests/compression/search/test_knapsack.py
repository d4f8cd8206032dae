"""The front of choices and the way along it: pure parts of the search, against all combinations of small cases."""

import itertools
from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from modelmill.compress.search import halving
from modelmill.compress.search.knapsack import Option, front, hull

TINY = 1e-9
"""Relative: sums of the same numbers in another order."""


def layers() -> st.SearchStrategy[dict[str, list[Option]]]:
    number = st.floats(min_value=0.0, max_value=100.0, allow_subnormal=False).map(lambda value: round(value, 4))
    own = st.lists(st.tuples(number, number), min_size=1, max_size=4).map(
        lambda pairs: [Option(kind=f"k{i}", cost=cost, increase=increase) for i, (cost, increase) in enumerate(pairs)]
    )
    return st.lists(own, min_size=1, max_size=4).map(lambda found: {f"l{i}": one for i, one in enumerate(found)})


def every_combination(options: Mapping[str, Sequence[Option]]) -> list[tuple[float, float]]:
    """(increase, cost)"""
    return [
        (sum(one.increase for one in chosen), sum(one.cost for one in chosen)) for chosen in itertools.product(*options.values())
    ]


@given(layers())
def test_each_point_has_one_kind_for_each_layer_and_the_sums_of_theirs(options: dict[str, list[Option]]) -> None:
    for point in front(options):
        chosen = [next(one for one in own if one.kind == point.choice[layer]) for layer, own in options.items()]
        assert point.cost == sum(one.cost for one in chosen)
        assert point.increase == sum(one.increase for one in chosen)


@given(layers())
def test_costs_fall_and_increases_rise_along_the_front(options: dict[str, list[Option]]) -> None:
    for first, second in itertools.pairwise(front(options)):
        assert second.cost < first.cost
        assert second.increase > first.increase


@given(layers())
def test_no_combination_is_better_than_a_point_in_both(options: dict[str, list[Option]]) -> None:
    every = every_combination(options)
    for point in front(options):
        assert not [
            (increase, cost)
            for increase, cost in every
            if increase <= point.increase * (1 - TINY) - TINY and cost <= point.cost * (1 - TINY) - TINY
        ]


@given(layers(), st.floats(min_value=0.0, max_value=400.0))
def test_the_best_within_a_bound_costs_at_most_one_steps_saving_more_than_the_optimum(
    options: dict[str, list[Option]], bound: float
) -> None:
    points = front(options)
    optimum = min((cost for increase, cost in every_combination(options) if increase <= bound), default=None)
    within = [point for point in points if point.increase <= bound]
    if not within:
        assert optimum is None or bound <= points[0].increase * (1 + TINY)
        return
    assert optimum is not None
    savings = [first.cost - second.cost for first, second in itertools.pairwise(points)]
    assert within[-1].cost <= optimum + max(savings, default=0.0) + TINY * max(1.0, within[-1].cost)


@given(layers())
def test_the_front_reaches_from_the_least_increase_to_the_least_cost(options: dict[str, list[Option]]) -> None:
    points = front(options)
    assert points[0].increase == sum(min(one.increase for one in own) for own in options.values())
    least = sum(min(one.cost for one in own) for own in options.values())
    assert abs(points[-1].cost - least) <= 1e-6


def test_a_step_that_saves_less_for_its_increase_than_a_later_one_is_skipped() -> None:
    dense, poor, good = (Option(kind=k, cost=c, increase=i) for k, c, i in (("dense", 10, 0), ("poor", 9, 1), ("good", 2, 2)))
    assert [one.kind for one in hull([dense, poor, good])] == ["dense", "good"]


@given(st.integers(min_value=1, max_value=300), st.data())
def test_the_last_candidate_that_holds_is_found_with_so_many_evaluations_that_they_halve_to_one(
    candidates: int, data: st.DataObject
) -> None:
    last = data.draw(st.integers(min_value=-1, max_value=candidates - 1))
    evaluations = candidates.bit_length()
    asked = halving.bisect(candidates, evaluations=evaluations, holds=lambda place: place <= last)
    assert len(asked) <= evaluations
    assert asked == sorted(set(asked))
    assert max((place for place in asked if place <= last), default=-1) == last


def test_few_evaluations_are_never_exceeded() -> None:
    assert len(halving.bisect(1000, evaluations=3, holds=lambda place: place < 500)) == 3
