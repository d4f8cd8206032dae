"""Rows of different lengths in one execution: padded, masked, and cut back to what each would have got alone."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelmill.serve.errors import BadRequest
from modelmill.serve.shapes import Shapes
from modelmill.signature import Signature, Tensor
from tests.unit.serve.support import Running, running

ENCODER = Signature(
    inputs=(
        Tensor(name="ids", datatype="INT64", shape=(-1, -1), pad=0),
        Tensor(name="mask", datatype="INT64", shape=(-1, -1), pad=0),
    ),
    outputs=(Tensor(name="mean", shape=(-1,)), Tensor(name="squares", datatype="INT64", shape=(-1, -1))),
)


def encoder(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return (ids * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1), ids * ids


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(encoder, signature=ENCODER, batcher_rows=8) as found:
        yield found


def ask(server: Running, rows: list[list[int]]) -> tuple[int, Any]:
    return server.predict([{"ids": row, "mask": [1] * len(row)} for row in rows])


LENGTHS = st.integers(1, 30)
REQUESTS = st.lists(st.tuples(LENGTHS, st.integers(1, 3), st.integers(1, 50)), min_size=1, max_size=12)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=REQUESTS)
def test_padded_together_equals_each_alone(server: Running, requests: list[tuple[int, int, int]]) -> None:
    bodies = [[[value + i for i in range(length)] for _ in range(rows)] for length, rows, value in requests]
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda rows: ask(server, rows), bodies))
    for rows, (status, answer) in zip(bodies, answers, strict=True):
        assert status == 200, answer
        for row, got in zip(rows, answer["predictions"], strict=True):
            assert got["mean"] == pytest.approx(sum(row) / len(row), rel=1e-6)
            assert got["squares"] == [value * value for value in row]


def signed(tensor: Tensor, output: tuple[int, ...] = (-1, -1)) -> Shapes:
    return Shapes(Signature(inputs=(tensor,), outputs=(Tensor(name="y", datatype="INT64", shape=output),)))


def test_padding_fills_up_with_the_declared_value_and_cutting_takes_it_away() -> None:
    shapes = signed(Tensor(name="x", datatype="INT64", shape=(-1, -1), pad=7))
    short = shapes.checked({"x": np.array([[1]])})
    long = shapes.checked({"x": np.array([[1, 2, 3], [4, 5, 6]])})
    assert short.key == long.key
    joined = shapes.join([short, long])
    assert joined.arrays["x"].tolist() == [[1, 7, 7], [1, 2, 3], [4, 5, 6]]
    outputs = type(joined)({"y": joined.arrays["x"] * 10}, joined.count)
    parts = shapes.part(outputs, [short, long], joined=joined)
    assert [part.arrays["y"].tolist() for part in parts] == [[[10]], [[10, 20, 30], [40, 50, 60]]]


def test_without_a_pad_value_different_lengths_never_share_a_batch() -> None:
    shapes = signed(Tensor(name="x", datatype="INT64", shape=(-1, -1)))
    one, two = (shapes.checked({"x": np.zeros((1, length), np.int64)}) for length in (1, 2))
    assert one.key != two.key


def test_fixed_dimensions_are_compared_even_where_others_may_be_padded() -> None:
    shapes = signed(Tensor(name="x", datatype="INT64", shape=(-1, -1, 2), pad=0), output=(-1,))
    with pytest.raises(BadRequest, match=r"shape \[1, 5, 3\] does not fit the model's \[-1, -1, 2\]"):
        shapes.checked({"x": np.zeros((1, 5, 3), np.int64)})


def test_a_pad_value_needs_something_to_pad() -> None:
    with pytest.raises(ValueError, match="pad 0 needs a free dimension besides the batch"):
        Tensor(name="x", shape=(-1, 3), pad=0)


def test_similar_lengths_share_executions_under_load() -> None:
    batches: list[tuple[int, ...]] = []

    def slow(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        time.sleep(0.005)
        batches.append(tuple(ids.shape))
        return encoder(ids, mask)

    with running(slow, signature=ENCODER) as server, ThreadPoolExecutor(16) as clients:
        batches.clear()
        bodies = [[[1] * (5 if i % 2 else 30)] for i in range(40)]
        assert all(status == 200 for status, _ in clients.map(lambda rows: ask(server, rows), bodies))
    assert sum(rows for rows, _ in batches) == 40
    assert len(batches) < 20
