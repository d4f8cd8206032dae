"""Out of memory: halves, right answers in their order, and a cap that is remembered."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modelmill.serve.rows import Rows
from modelmill.serve.runner import Runner
from modelmill.serve.shapes import Shapes
from modelmill.signature import Signature, Tensor
from tests.unit.serve.support import DOUBLE, running


class Cramped:
    """A model whose memory is enough for `fits` rows."""

    def __init__(self, fits: int) -> None:
        self.fits = fits
        self.ran: list[int] = []

    def __call__(self, rows: Rows) -> Rows:
        if rows.count > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.ran.append(rows.count)
        return Rows({"y": rows.arrays["x"] * 2}, rows.count)


def rows_of(values: list[int]) -> Rows:
    return Shapes(DOUBLE).checked({"x": np.array([[value] * 3 for value in values], np.float32)})


@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=6), fits=st.integers(1, 8))
def test_halves_give_every_member_its_own_rows(sizes: list[int], fits: int) -> None:
    model = Cramped(fits)
    run = Runner(model, signature=DOUBLE)
    many = [rows_of(list(range(i * 10, i * 10 + size))) for i, size in enumerate(sizes)]
    outputs = run(many)
    for rows, output in zip(many, outputs, strict=True):
        assert output.arrays["y"].tolist() == (rows.arrays["x"] * 2).tolist()
    assert max(model.ran) <= fits
    assert (run.most_rows is None) == (sum(sizes) <= fits)


def test_one_row_that_does_not_fit_is_the_requests_own_failure() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        Runner(Cramped(0), signature=DOUBLE)([rows_of([1])])


def test_another_failure_is_not_run_again_in_halves() -> None:
    calls: list[int] = []

    def broken(rows: Rows) -> Rows:
        calls.append(rows.count)
        raise RuntimeError("wrong")

    with pytest.raises(RuntimeError, match="wrong"):
        Runner(broken, signature=DOUBLE)([rows_of([1]), rows_of([2])])
    assert calls == [2]


def test_padded_rows_remember_elements_because_short_ones_may_be_many() -> None:
    ragged = Signature(inputs=(Tensor(name="x", shape=(-1, -1), pad=0),), outputs=(Tensor(name="y", shape=(-1, -1)),))
    run = Runner(Cramped(2), signature=ragged)
    run([Shapes(ragged).checked({"x": np.ones((4, 10), np.float32)})])
    assert (run.most_rows, run.most_elements) == (None, 20)


def test_the_server_answers_everybody_and_makes_smaller_batches_from_then_on() -> None:
    sizes: list[int] = []

    def cramped(x: torch.Tensor) -> torch.Tensor:
        if x.any():
            if len(x) > 2:
                # Words of torch's allocator on a CPU.
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
            sizes.append(len(x))
        return x * 2

    with running(cramped, batcher_rows=8) as server, ThreadPoolExecutor(8) as clients:
        assert server.predict([[1, 2, 3]] * 8) == (200, {"predictions": [[2.0, 4.0, 6.0]] * 8})
        answers = list(clients.map(lambda i: server.predict([[i, 0, 0]]), range(1, 30)))
        assert answers == [(200, {"predictions": [[2.0 * i, 0.0, 0.0]]}) for i in range(1, 30)]
        assert max(sizes) <= 2
        assert server.metric("failed_executions_total") == 0
