"""Priority and timeout of a request, under Triton's names, through the real server."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from tests.unit.serve.support import Running, running
from tests.unit.serve.test_batching import Gate
from tests.unit.serve.test_http import eventually


def ask(server: Running, value: float, **parameters: Any) -> tuple[int, Any]:
    tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [value, 0, 0]}
    return server.ask("POST", "/v2/models/m/infer", {"inputs": [tensor], "parameters": parameters})


def waiting(server: Running, count: int) -> bool:
    return server.metric("queue_depth") == count


def test_an_urgent_request_overtakes_those_that_wait() -> None:
    gate = Gate()
    with running(gate, batcher_rows=1) as server, ThreadPoolExecutor(8) as clients:
        first = clients.submit(ask, server, 1)
        assert eventually(lambda: server.metric("queue_seconds_count") == 1)
        answers = [first]
        for i, priority in enumerate((0, 9, 1, 5, 2)):
            answers.append(clients.submit(ask, server, 10 + i, priority=priority))
            assert eventually(partial(waiting, server, i + 1))
        gate.open.set()
        assert all(answer.result()[0] == 200 for answer in answers)
        assert [batch[0] for batch in gate.batches] == [1, 12, 14, 10, 13, 11]


def test_a_request_is_dropped_when_its_own_time_is_up() -> None:
    gate = Gate()
    with running(gate) as server, ThreadPoolExecutor(4) as clients:
        first = clients.submit(ask, server, 1)
        assert eventually(lambda: server.metric("queue_seconds_count") == 1)
        began = time.monotonic()
        patient = clients.submit(ask, server, 2)
        status, answer = ask(server, 3, timeout=200_000)
        assert (status, answer["error"]) == (504, "no answer within 0.2 seconds")
        assert time.monotonic() - began >= 0.2
        gate.open.set()
        assert (first.result()[0], patient.result()[0]) == (200, 200)
        assert [3.0] not in gate.batches
        assert server.metric("expired_total") == 1


@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        ({"priority": 10}, "priority: 10"),
        ({"priority": -1}, "priority: -1"),
        ({"priority": "high"}, "priority: 'high'"),
        ({"priority": True}, "priority: True"),
        ({"timeout": -5}, "timeout: -5"),
        ({"timeout": 0.5}, "timeout: 0.5"),
    ],
    ids=json.dumps,
)
def test_a_wrong_parameter_is_named(parameters: dict[str, Any], names: str) -> None:
    with running() as server:
        status, answer = ask(server, 1, **parameters)
        assert status == 400
        assert names in answer["error"]
