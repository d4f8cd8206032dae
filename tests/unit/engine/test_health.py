"""What the probes and Prometheus get to see."""

import asyncio

from aiohttp.test_utils import TestClient, TestServer

from modelmill_operator.engine import health
from modelmill_operator.engine.metrics import Metrics


def _pages(*, wrong: str | None) -> dict[str, tuple[int, str]]:
    metrics = Metrics()
    metrics.writes.labels("create", "Pod", "ok").inc()
    metrics.gauge("queue_depth", "Resources that wait to be looked at.", lambda: 3.0)
    app = health.application(
        live={"workers": lambda: wrong, "tasks": lambda: None}, ready={"lists": lambda: wrong}, registry=metrics.registry
    )

    async def run() -> dict[str, tuple[int, str]]:
        async with TestClient(TestServer(app)) as client:
            answers = {name: await client.get(f"/{name}") for name in ("healthz", "readyz", "metrics")}
            return {name: (answer.status, await answer.text()) for name, answer in answers.items()}

    return asyncio.run(run())


def test_all_is_well_when_no_check_finds_anything() -> None:
    pages = _pages(wrong=None)
    assert pages["healthz"] == (200, "workers: ok\ntasks: ok\n")
    assert pages["readyz"] == (200, "lists: ok\n")


def test_what_is_wrong_is_told_in_words() -> None:
    pages = _pages(wrong="one has been at the same resource for 700 s")
    assert pages["healthz"] == (503, "workers: one has been at the same resource for 700 s\ntasks: ok\n")
    assert pages["readyz"][0] == 503


def test_prometheus_gets_counters_and_gauges() -> None:
    status, text = _pages(wrong=None)["metrics"]
    assert status == 200
    assert 'modelmill_operator_writes_total{kind="Pod",result="ok",verb="create"} 1.0' in text
    assert "modelmill_operator_queue_depth 3.0" in text
