"""Our counts under Triton's names, when they are asked for."""

import re

import pytest

from modelmill.observe import triton
from tests.unit.serve.support import running


def exposed(text: bytes) -> dict[str, float]:
    found = re.findall(r'^(nv_inference_\w+){model="m",version="3"} (\S+)$', text.decode(), re.MULTILINE)
    return {name: float(value) for name, value in found}


def test_they_count_requests_rows_and_executions_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(triton.ENVIRONMENT, "1")
    with running() as server:
        assert server.predict([[1, 2, 3], [4, 5, 6]])[0] == 200
        assert server.predict([[1]])[0] == 400
        _, text, _ = server.exchange("GET", "/metrics", admin=True)
    values = exposed(text)
    counts = {name: values[f"nv_inference_{name}"] for name in ("request_success", "request_failure", "count", "exec_count")}
    assert counts == {"request_success": 1, "request_failure": 0, "count": 2, "exec_count": 1}
    durations = [values[f"nv_inference_{name}_duration_us"] for name in ("request", "queue", "compute_infer")]
    assert durations[0] >= durations[1] + durations[2] > 0


def test_unless_asked_for_they_are_not_there() -> None:
    with running() as server:
        assert not exposed(server.exchange("GET", "/metrics", admin=True)[1])
