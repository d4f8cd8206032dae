"""Requests that meet in the batch former, through the real server: right answers, fair failures, counts that add up."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.load import Load
from tests.unit.serve.support import MIXED, Running, mixed, post, running
from tests.unit.serve.test_http import eventually

POISON = 666.0


class Gate:
    """A module that waits until it is let go on, and records what it was given.

    Slow enough in the warm-up that it runs in the executor's thread."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.batches: list[list[float]] = []

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if x.any():  # not the warm-up's zeros
            assert self.open.wait(30)
            self.batches.append(x[:, 0].tolist())
        else:
            time.sleep(0.002)
        return x * 2


def poisoned(x: torch.Tensor) -> torch.Tensor:
    time.sleep(0.02)
    if (x == POISON).any():
        raise ValueError("a value the model cannot stand")
    return x * 2


@pytest.fixture(scope="module")
def mixing() -> Iterator[Running]:
    with running(mixed, signature=MIXED, batcher_rows=8) as server:
        yield server


REQUESTS = st.lists(
    st.tuples(st.integers(1, 3), st.lists(st.integers(-100, 100), min_size=1, max_size=20)), min_size=1, max_size=12
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=REQUESTS)
def test_batched_equals_unbatched_for_every_mix_of_shapes(mixing: Running, requests: list[tuple[int, list[int]]]) -> None:
    def ask(request: tuple[int, list[int]]) -> tuple[int, Any]:
        width, ks = request
        return mixing.predict([{"a": [1.5] * width, "k": k} for k in ks])

    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(ask, requests))
    for (width, ks), answer in zip(requests, answers, strict=True):
        assert answer == (200, {"predictions": [{"sum": 1.5 * width * k, "next": k + 1} for k in ks]})


def test_rows_gather_while_the_executor_is_busy_and_a_large_request_is_cut_and_joined() -> None:
    gate = Gate()
    with running(gate, batcher_rows=4) as server, ThreadPoolExecutor(8) as clients:
        first = clients.submit(server.predict, [[1, 0, 0]])
        assert eventually(lambda: server.metric("queue_seconds_count") == 1)
        others = [clients.submit(server.predict, [[i, 0, 0]]) for i in (2, 3)]
        assert eventually(lambda: server.metric("queue_depth") == 2)
        large = clients.submit(server.predict, [[10 + i, 0, 0] for i in range(6)])
        assert eventually(lambda: server.metric("queue_depth") == 4)
        gate.open.set()
        assert large.result() == (200, {"predictions": [[20.0 + 2 * i, 0.0, 0.0] for i in range(6)]})
        assert all(answer.result()[0] == 200 for answer in (first, *others))
        assert sorted(len(batch) for batch in gate.batches) == [1, 2, 2, 4]
        assert server.metric("inferences_total") == 9
        assert server.metric("batch_rows_sum") == 9


def test_a_poisoned_request_fails_alone() -> None:
    with running(poisoned) as server, ThreadPoolExecutor(12) as clients:
        values = [1.0, 2.0, POISON, *(float(i) for i in range(3, 12))]
        answers = list(clients.map(lambda value: server.predict([[value, 0, 0]]), values))
        for value, (status, answer) in zip(values, answers, strict=True):
            if value == POISON:
                assert status == 500
                assert "ValueError: a value the model cannot stand" in answer["error"]
            else:
                assert (status, answer) == (200, {"predictions": [[value * 2, 0.0, 0.0]]})
        assert server.metric("failed_executions_total") >= 1


def test_an_output_without_the_batch_dimension_is_told_not_served() -> None:
    with running(lambda x: x * 2 if not x.any() else x.sum()) as server:
        status, answer = server.predict([[1, 1, 1], [2, 2, 2]])
        assert status == 500
        assert "output 'y': shape [] for 2 rows" in answer["error"]


def test_overload_is_refused_with_retry_after_and_the_counts_add_up() -> None:
    """Every request that was sent is answered, refused, or its client went away; nothing is lost or counted twice."""
    gate = Gate()
    with running(gate, batcher_rows=2, queue_limit=5) as server, ThreadPoolExecutor(20) as clients:
        body = json.dumps({"instances": [[1, 0, 0]]}).encode()
        leaving = [socket.create_connection(server.address) for _ in range(2)]
        leaving[0].sendall(post("/v1/models/m:predict", body))
        assert eventually(lambda: server.metric("queue_seconds_count") == 1)
        leaving[1].sendall(post("/v1/models/m:predict", body))
        assert eventually(lambda: server.metric("queue_depth") == 1)
        pending = [clients.submit(server.exchange, "POST", "/v1/models/m:predict", body) for _ in range(18)]
        assert eventually(lambda: server.metric("shed_total") == 14)
        for connection in leaving:
            connection.close()
        assert eventually(lambda: server.metric("cancelled_total") == 2)
        gate.open.set()
        answers = [answer.result() for answer in pending]
        refused = [headers for status, _, headers in answers if status == 503]
        assert len(refused) == 14
        assert all(headers["retry-after"] == "1" for headers in refused)
        assert server.requests_by_code() == {"200": 4, "503": 14, "499": 2}
        assert server.admin("/load")[1]["inflight"] == 0


def test_a_request_whose_client_went_away_never_reaches_the_model() -> None:
    gate = Gate()
    with running(gate) as server, ThreadPoolExecutor(2) as clients:
        first = clients.submit(server.predict, [[1, 0, 0]])
        assert eventually(lambda: server.metric("queue_seconds_count") == 1)
        with socket.create_connection(server.address) as connection:
            connection.sendall(post("/v1/models/m:predict", json.dumps({"instances": [[7, 0, 0]]}).encode()))
            assert eventually(lambda: server.metric("queue_depth") == 1)
        assert eventually(lambda: server.metric("queue_depth") == 0)
        gate.open.set()
        assert first.result()[0] == 200
        assert gate.batches == [[1.0]]


def test_a_client_that_goes_away_while_its_batch_runs_takes_nobody_with_it() -> None:
    class Slow(Gate):
        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            doubled = super().__call__(x)
            time.sleep(0.3 * bool((x == 7).any()))
            return doubled

    gate = Slow()
    with running(gate) as server, ThreadPoolExecutor(2) as clients:
        first = clients.submit(server.predict, [[1, 0, 0]])
        assert eventually(lambda: server.metric("queue_seconds_count") == 1)
        with socket.create_connection(server.address) as connection:
            connection.sendall(post("/v1/models/m:predict", json.dumps({"instances": [[7, 0, 0]]}).encode()))
            assert eventually(lambda: server.metric("queue_depth") == 1)
            other = clients.submit(server.predict, [[2, 0, 0]])
            assert eventually(lambda: server.metric("queue_depth") == 2)
            gate.open.set()
            assert eventually(lambda: server.metric("queue_seconds_count") == 3)
        assert first.result()[0] == 200
        assert other.result() == (200, {"predictions": [[4, 0, 0]]})
        assert gate.batches == [[1.0], [7.0, 2.0]]
        assert server.requests_by_code() == {"200": 2, "499": 1}


def test_a_request_that_waits_too_long_gets_504_and_never_reaches_the_model() -> None:
    gate = Gate()
    with running(gate, timeout_seconds=0.3) as server, ThreadPoolExecutor(2) as clients:
        answers = [clients.submit(server.predict, [[i, 0, 0]]) for i in (1, 2)]
        assert [answer.result()[0] for answer in answers] == [504, 504]
        gate.open.set()
        assert eventually(lambda: len(gate.batches) == 1)
        assert server.predict([[3, 0, 0]])[0] == 200
        assert len(gate.batches) == 2
        assert server.metric("expired_total") == 2


def test_closed_loop_load_gets_only_right_codes_and_shares_batches() -> None:
    def slow(x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.003)
        return x * 2

    with running(slow) as server:
        url = f"http://127.0.0.1:{server.server.port}/v1/models/m:predict"
        load = Load(url, body=json.dumps({"instances": [[1, 2, 3]]}).encode(), connections=16)
        report = asyncio.run(load.run(1.0))
        assert report.ok > 100
        assert report.failed == 0
        assert report.codes == {"200": report.ok}
        assert server.metric("executions_total") < report.ok / 2
        assert server.admin("/load")[1]["concurrencySeconds"] > 4
