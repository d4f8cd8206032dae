"""The parts of the load generator that measure: percentiles, the schedule, and what a stall costs whom."""

import asyncio
import io
import itertools
import math
import random
import statistics
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from modelmill.cli.load import run, table
from modelmill.cli.load.histogram import Histogram
from modelmill.cli.load.plan import Plan, Report, packed
from modelmill.cli.load.schedule import poisson
from modelmill.cli.load.summary import Summary
from tests.unit.serve.support import Running, post, running

TIMES = st.lists(st.floats(min_value=2e-6, max_value=1000.0), min_size=1, max_size=200)
REQUEST = post("/v1/models/m:predict", b'{"instances": [[1, 2, 3]]}')


def filled(times: list[float]) -> Histogram:
    histogram = Histogram()
    for seconds in times:
        histogram.record(seconds)
    return histogram


@given(times=TIMES, share=st.sampled_from([0.01, 0.5, 0.9, 0.99, 1.0]))
def test_a_percentile_is_within_half_a_percent(times: list[float], share: float) -> None:
    exact = np.quantile(times, share, method="inverted_cdf")
    assert filled(times).percentile(share) == pytest.approx(exact, rel=0.0051)


@given(first=TIMES, second=TIMES)
def test_histograms_add_up_and_survive_json(first: list[float], second: list[float]) -> None:
    both = filled(first)
    report = Report.decode(Report(seconds=1.0, latencies=filled(second)).encode())
    both.add(report.latencies)
    assert both.count == len(first) + len(second)
    assert (both.least, both.most) == (min(first + second), max(first + second))
    assert both.mean == pytest.approx(statistics.fmean(first + second))
    assert both.percentile(0.5) == filled(first + second).percentile(0.5)


def test_a_histogram_of_nothing_has_no_percentiles() -> None:
    empty = Report.decode(Report().encode()).latencies
    assert (empty.count, empty.percentile(0.5), empty.percentile(1.0), empty.mean, empty.sparkline(10)) == (
        0,
        None,
        None,
        None,
        "",
    )


def test_a_sparkline_shows_where_the_counts_are() -> None:
    line = filled([0.001] * 90 + [0.01] * 9 + [0.1]).sparkline(9)
    assert (len(line), line[0], line[-1], line.strip(" ▁▂█")) == (9, "█", "▁", "")
    assert filled([0.001]).sparkline(9) == "█"


def test_a_poisson_schedule_has_its_rate_and_random_gaps() -> None:
    due = list(poisson(1000.0, seconds=20.0, source=random.Random(1)))
    assert due == sorted(due)
    assert due[0] > 0 and due[-1] < 20.0
    assert len(due) == pytest.approx(20_000, abs=5 * 20_000**0.5)
    gaps = np.diff(due)
    # An exponential distribution: its standard deviation is its mean.
    assert gaps.mean() == pytest.approx(0.001, rel=0.05)
    assert gaps.std() == pytest.approx(0.001, rel=0.05)


def plan_for(server: Running, **changes: Any) -> Plan:
    fixed: dict[str, Any] = {"connections": 2, "rate": None, "seconds": 0.3, "timeout": 10.0}
    host, port = server.address
    return Plan(host=host, port=port, request=packed(REQUEST), **{**fixed, **changes})


def outcome(plan: Plan) -> Summary:
    async def whole() -> Report:
        load = run.Run(plan)
        await load.go()
        return load.report(final=True)

    summary = Summary(rows=1)
    summary.add(asyncio.run(whole()))
    return summary


def test_a_closed_loop_counts_what_the_server_counts() -> None:
    with running() as server:
        total = outcome(plan_for(server)).total
        assert total.codes == {"200": total.ok}
        assert total.ok == server.metric("inferences_total") > 10


def test_an_open_loop_keeps_its_rate_whatever_the_answers_do() -> None:
    def slow(x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.02)
        return x * 2

    with running(slow) as server:
        total = outcome(plan_for(server, rate=200.0, seconds=1.0, connections=1)).total
        assert total.ok == pytest.approx(200, abs=5 * 200**0.5)
        assert total.ok == server.metric("inferences_total")
        assert total.late.count == total.ok


def test_a_stall_is_charged_to_everybody_who_had_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "MAX_CONNECTIONS", 1)
    calls, stall = itertools.count(), math.inf

    def stalls_once(x: torch.Tensor) -> torch.Tensor:
        if next(calls) == stall:
            time.sleep(0.5)
        return x * 2

    with running(stalls_once) as server:
        stall = next(calls) + 20  # those before it are the warm-up's
        total = outcome(plan_for(server, rate=200.0, seconds=1.0, connections=1)).total
    # About 100 of 200 were due during the stall, and four fifths of them had to wait for more than 0.1 s; counted from when they
    # could be sent, it would be one.
    waited = sum((total.latencies.percentile(share) or 0.0) > 0.1 for share in np.linspace(0.005, 0.995, 100))
    assert waited >= 20, "percent of all requests"
    assert total.latencies.most >= 0.49


@pytest.mark.parametrize("rate", [None, 50.0])
def test_a_server_that_goes_away_is_counted_not_waited_for(rate: float | None) -> None:
    with running() as server:
        plan = plan_for(server, rate=rate, seconds=0.5)
    total = outcome(plan).total
    assert total.ok == 0
    assert set(total.codes) == {"refused"}


def test_an_answer_that_does_not_come_is_given_up() -> None:
    gate = threading.Event()

    def hangs(x: torch.Tensor) -> torch.Tensor:
        gate.wait(10)
        return x

    with running(hangs, load=False) as server:
        gate.set()
        server.on_loop(server.server.load())
        gate.clear()
        summary = outcome(plan_for(server, connections=1, seconds=0.2, timeout=0.3))
        gate.set()
    assert summary.total.codes["timeout"] >= 1
    assert summary.texts["timeout"] == "no answer in time"


def test_the_table_shows_the_last_seconds_and_says_when_the_sender_is_the_limit() -> None:
    summary = Summary(rows=4)
    for second in range(12):
        report = Report(seconds=1.0, cpu_seconds=0.95, latencies=filled([0.002] * 98 + [0.03] * 2))
        report.codes = {"200": 100, "503": second}
        report.texts = {"503": "too many\n requests wait"}
        summary.add(report)
    console = Console(record=True, width=140, file=io.StringIO())
    console.print(table.live(summary, title="m[b] at http://h"))
    text = console.export_text()
    rows = [line.split() for line in text.splitlines()]
    assert [row[0] for row in rows if row and row[-1].isdigit()] == [f"{n}.0" for n in range(3, 13)] + ["all"]
    assert next(row for row in rows if row[:1] == ["all"])[1:4] == ["100", "2.00", "2.00"]
    assert text.startswith("m[b] at http://h\n")
    assert "is the limit, not the server" in text
    told = table.final(summary, title="m[b] at http://h")
    assert "1,200 in 12.0 s: 100/s, 400 rows/s" in told
    assert "errors     503: 66\n           503 said: too many requests wait\n" in told
    assert summary.to_dict()["limitedBySender"] is True
