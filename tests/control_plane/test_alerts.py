"""The chart's rules under promtool: every alert fires on what it is for, says so in words, and is silent otherwise."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

RULES = Path(__file__).parents[2] / "helm" / "modelmill" / "monitoring" / "rules.yaml"
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"] if "alert" in rule
}
HEALTHY = {
    'modelmill_operator_leader{pod="a"}': "1x120",
    'modelmill_operator_leader{pod="b"}': "0x120",
    'modelmill_operator_reconciles_total{kind="TrainingJob",result="ok"}': "0+5x120",
    'modelmill_operator_queue_oldest_seconds{pod="a"}': "2x120",
    'modelmill_serve_ready{namespace="shop",modelservice="digits",pod="a"}': "1x120",
    'modelmill_serve_ready{namespace="shop",modelservice="digits",pod="b"}': "0x120",
    'modelmill_serve_requests_total{namespace="shop",modelservice="digits",code="200"}': "0+100x120",
    'modelmill_serve_requests_total{namespace="shop",modelservice="digits",code="400"}': "0+100x120",
    'modelmill_serve_shed_total{namespace="shop",modelservice="digits"}': "0x120",
    'modelmill_serve_requests_total{namespace="shop",modelservice="unused",code="200"}': "7x120",
    'modelmill_serve_shed_total{namespace="shop",modelservice="unused"}': "3x120",
}
"""Half an hour of samples, 15 s apart: one leader of two, one ready pod of two, clients that err, a service nobody asks."""

SERVICE = {"namespace": "shop", "modelservice": "digits"}
ILL: dict[str, tuple[str, dict[str, str | None], dict[str, str], str]] = {
    "nobody leads": (
        "ModelmillNoLeader",
        {'modelmill_operator_leader{pod="a"}': "0x120"},
        {},
        "0 replicas of Modelmill's operator lead; it should be one",
    ),
    "no operator answers": (
        "ModelmillNoLeader",
        {'modelmill_operator_leader{pod="a"}': None, 'modelmill_operator_leader{pod="b"}': None},
        {},
        "0 replicas of Modelmill's operator lead; it should be one",
    ),
    "two lead": (
        "ModelmillNoLeader",
        {'modelmill_operator_leader{pod="b"}': "1x120"},
        {},
        "2 replicas of Modelmill's operator lead; it should be one",
    ),
    "a fifth of the looks fails": (
        "ModelmillReconcilesFail",
        {
            'modelmill_operator_reconciles_total{kind="TrainingJob",result="error"}': "0+1x120",
            'modelmill_operator_reconciles_total{kind="TrainingJob",result="ok"}': "0+4x120",
        },
        {"kind": "TrainingJob"},
        "20% of the looks at TrainingJobs fail",
    ),
    "a resource is never looked at": (
        "ModelmillQueueStuck",
        {'modelmill_operator_queue_oldest_seconds{pod="a"}': "400x120"},
        {},
        "A resource has waited 6m 40s for the operator",
    ),
    "the model raises exceptions": (
        "ModelmillServeErrors",
        {
            'modelmill_serve_requests_total{namespace="shop",modelservice="digits",code="200"}': "0+95x120",
            'modelmill_serve_requests_total{namespace="shop",modelservice="digits",code="400"}': "0x120",
            'modelmill_serve_requests_total{namespace="shop",modelservice="digits",code="500"}': "0+5x120",
        },
        SERVICE,
        "5% of the requests to shop/digits fail",
    ),
    "queues are full": (
        "ModelmillServeOverloaded",
        {'modelmill_serve_shed_total{namespace="shop",modelservice="digits"}': "0+30x120"},
        SERVICE,
        "shop/digits refuses 2 requests a second",
    ),
    "no pod can serve": (
        "ModelmillServeNoneReady",
        {'modelmill_serve_ready{namespace="shop",modelservice="digits",pod="a"}': "0x120"},
        SERVICE,
        "No pod of shop/digits is ready",
    ),
}


def test_prometheus_accepts_the_rules() -> None:
    _promtool("check", "rules", str(RULES))


@pytest.mark.parametrize("case", ILL)
def test_an_alert_fires_alone_and_says_what_is_wrong(case: str, tmp_path: Path) -> None:
    alert, changes, labels, summary = ILL[case]
    rule = ALERTS[alert]
    told = {"summary": summary, "description": rule["annotations"]["description"]}
    firing = {"exp_labels": {**labels, **rule["labels"]}, "exp_annotations": told}
    _judge(tmp_path, {**HEALTHY, **changes}, {name: [firing] if name == alert else [] for name in ALERTS})


def test_every_alert_is_provoked_here() -> None:
    assert {alert for alert, *_ in ILL.values()} == set(ALERTS)


def test_all_alerts_are_silent_while_all_is_well(tmp_path: Path) -> None:
    _judge(tmp_path, HEALTHY, {name: [] for name in ALERTS})


def _judge(folder: Path, series: dict[str, Any], expected: dict[str, list[dict[str, Any]]]) -> None:
    """Lets the series run for 25 minutes, and compares what fires then."""
    test = {
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series.items() if values],
        "alert_rule_test": [{"eval_time": "25m", "alertname": name, "exp_alerts": alerts} for name, alerts in expected.items()],
    }
    file = folder / "test.yaml"
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "15s", "tests": [test]}))
    _promtool("test", "rules", str(file))


def _promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
