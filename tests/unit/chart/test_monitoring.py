"""Dashboards, alerts and metrics agree on names. That every expression has data is tested with a real Prometheus."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from prometheus_client import CollectorRegistry

from modelmill.observe.metrics import Metrics as ServeMetrics
from modelmill_operator.engine.app import Engine
from modelmill_operator.engine.client import Client
from modelmill_operator.engine.reports import Answer
from modelmill_operator.settings import Settings

MONITORING = Path(__file__).parents[3] / "helm" / "modelmill" / "monitoring"
DASHBOARDS = sorted(MONITORING.glob("dashboard-*.json"))
RULES = yaml.safe_load((MONITORING / "rules.yaml").read_text())
RECORDED = {rule["record"] for group in RULES["groups"] for rule in group["rules"] if "record" in rule}


def _samples(registry: CollectorRegistry) -> Iterator[str]:
    for metric in registry.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(metric.type, [""])
        yield from (metric.name + suffix for suffix in suffixes)


async def _operator_registry() -> CollectorRegistry:
    engine = Engine(Settings(), client=cast(Client, None), planners={}, answer=cast(Answer, None))
    return engine.metrics.registry


KNOWN = {*_samples(asyncio.run(_operator_registry())), *_samples(ServeMetrics().registry), *RECORDED}


def _named_expressions() -> Iterator[tuple[str, str]]:
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{path.stem}: {panel['title']}", target["expr"]
    for group in RULES["groups"]:
        for rule in group["rules"]:
            yield rule.get("alert") or rule["record"], rule["expr"]


EXPRESSIONS = list(_named_expressions())


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS, ids=lambda value: value[:60])
def test_an_expression_names_metrics_that_exist(where: str, expression: str) -> None:
    named = set(re.findall(r"\b(?:modelmill:[a-z0-9_:]+|modelmill_[a-z0-9_]+)", expression))
    assert named, where
    assert named <= KNOWN, f"{where}: nobody exports {sorted(named - KNOWN)}"


def test_every_alert_looks_at_a_recorded_value_so_that_it_can_be_seen_to_have_data() -> None:
    for group in RULES["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                assert any(record in rule["expr"] for record in RECORDED), rule["alert"]
                assert {"summary", "description"} <= set(rule["annotations"]), rule["alert"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_the_panels_of_a_dashboard_are_told_apart_and_do_not_overlap(path: Path) -> None:
    panels: list[dict[str, Any]] = json.loads(path.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    cells = [(x, p["gridPos"]["y"]) for p in panels for x in range(p["gridPos"]["x"], p["gridPos"]["x"] + p["gridPos"]["w"])]
    assert len(cells) == len(set(cells))
    assert all(panel["description"] for panel in panels)
