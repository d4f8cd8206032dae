"""The verdict on what was measured, from made-up figures."""

from collections.abc import Sequence

import pytest

from modelmill.compress.errors import CompressionError
from modelmill.compress.search.found import Candidate, Found, Measured, Quality, chosen
from modelmill.compress.search.knapsack import Point
from modelmill.contract.steps import Search


def measured(bytes: int, seconds: float, drop: float) -> Measured:
    return Measured(bytes=bytes, seconds=seconds, quality=Quality(loss=0.1, drop=drop))


def found(objective: str, candidates: Sequence[Measured | None], *, max_drop: float = 0.01) -> Found:
    dense = measured(1000, 1.0, 0.0)
    point = Point(choice={"a": "int8"}, cost=1, increase=0.1)
    return Found(
        step=Search(objective=objective, max_drop=max_drop),
        rows=500,
        dense=dense,
        start=dense,
        candidates=[Candidate(point=point, bytes=1, seconds=1.0, measured=one) for one in candidates],
    )


def test_the_smallest_within_the_budget_is_taken() -> None:
    assert chosen(found("Size", [measured(500, 1, 0.0), None, measured(490, 2, 0.01), measured(100, 0.1, 0.02)])) == 2


def test_by_latency_what_is_as_fast_but_for_noise_and_loses_less_is_taken() -> None:
    assert chosen(found("Latency", [measured(1, 0.9, 0), measured(1, 0.5, 0.001), measured(1, 0.49, 0.01)])) == 1
    assert chosen(found("Latency", [measured(1, 0.9, 0), measured(1, 0.5, 0.001), measured(1, 0.4, 0.01)])) == 2


def test_when_nothing_holds_the_nearest_is_told() -> None:
    told = r"none of 2 candidates loses at most 0.01 on 500 rows; the nearest loses 0.0200 with 0.50 of dense's time and 0.40"
    with pytest.raises(CompressionError, match=told):
        chosen(found("Size", [measured(400, 0.5, 0.02), measured(300, 0.4, 0.3)]))


def test_when_nothing_that_holds_is_better_than_before_it_is_told_too() -> None:
    told = r"nothing within maxDrop 0.01 is better than without the search: .* 1.20 of dense's time and 0.40 of its bytes"
    with pytest.raises(CompressionError, match=told):
        chosen(found("Latency", [measured(400, 1.2, 0.0), measured(300, 0.4, 0.3)]))
