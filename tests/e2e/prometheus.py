"""A real Prometheus beside the cluster, with the chart's own relabelling and rules, and what is asked of it.

It runs on the host, which reaches pods by their addresses in the built-in cluster. Debian builds its Prometheus without
the discovery of Kubernetes, so a thread writes the targets, with the labels that discovery gives, to a file. Scrapes and
rules run each second, so that a test sees data in seconds; the expressions are the chart's, to the letter.
"""

import json
import math
import os
import re
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from examples.demo import kube
from tests.ports import free_port

MONITORING = Path(__file__).parents[2] / "helm" / "modelmill" / "monitoring"


@contextmanager
def running() -> Iterator[str]:
    """The URL of a Prometheus that scrapes what runs in the cluster."""
    with tempfile.TemporaryDirectory(prefix="modelmill-prometheus-") as name:
        folder, stop = Path(name), threading.Event()
        (folder / "prometheus.yaml").write_text(json.dumps(_configuration(folder / "targets.json")))
        finder = threading.Thread(target=_find_targets, args=(folder / "targets.json", stop))
        finder.start()
        address = f"127.0.0.1:{free_port()}"
        command = ["prometheus", f"--config.file={folder}/prometheus.yaml", f"--web.listen-address={address}"]
        command += [f"--storage.tsdb.path={folder}/data", "--log.level=warn"]
        # No proxy of this machine leads to pods.
        environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            _wait_until_ready(f"http://{address}", process, folder / "log")
            yield f"http://{address}"
        finally:
            stop.set()
            finder.join()
            process.terminate()
            process.wait(timeout=30)


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(300):
        if process.poll() is not None:
            break
        try:
            query(url, "vector(1)")
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    raise RuntimeError(f"prometheus did not start: {log.read_text()[-2000:]}")


def _configuration(targets: Path) -> dict[str, Any]:
    scrape: dict[str, Any] = yaml.safe_load((MONITORING / "scrape.yaml").read_text())
    for job in scrape["scrape_configs"]:
        del job["kubernetes_sd_configs"]
        job["file_sd_configs"] = [{"files": [str(targets)], "refresh_interval": "5s"}]
    intervals = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    return {"global": intervals, "rule_files": [str(MONITORING / "rules.yaml")], **scrape}


def _find_targets(file: Path, stop: threading.Event) -> None:
    """Writes down all pods, as discovery would find them: the chart's relabelling chooses among them."""
    while not stop.wait(2):
        try:
            pods = json.loads(kube.kubectl("get", "pods", "-A", "-o", "json"))["items"]
        except kube.KubeError:
            continue
        written = file.with_suffix(".new")
        written.write_text(json.dumps([target for pod in pods for target in _targets(pod)]))
        written.replace(file)


def _targets(pod: kube.Object) -> Iterator[dict[str, Any]]:
    """One for each port of a pod, with the labels that discovery of Kubernetes gives."""
    meta = {"__meta_kubernetes_namespace": pod["metadata"]["namespace"], "__meta_kubernetes_pod_name": pod["metadata"]["name"]}
    for label, value in pod["metadata"].get("labels", {}).items():
        meta["__meta_kubernetes_pod_label_" + re.sub(r"[^a-zA-Z0-9_]", "_", label)] = value
    for port in pod["spec"]["containers"][0].get("ports", []):
        if address := pod["status"].get("podIP"):
            labels = {**meta, "__meta_kubernetes_pod_container_port_name": port.get("name", "")}
            yield {"targets": [f"{address}:{port['containerPort']}"], "labels": labels}


def expressions(*, namespace: str, service: str) -> dict[str, str]:
    """Where an expression stands -> the expression: every panel and every recorded value that alerts look at.

    Those about serving are asked of one service, as by somebody who chose it in the dashboard.
    """
    variables = {"$__rate_interval": "30s", "$namespace": namespace, "$modelservice": service}
    found = {}
    for path in sorted(MONITORING.glob("dashboard-*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                found[f"{path.stem}: {panel['title']} ({target['refId']})"] = _filled(target["expr"], variables)
    for group in yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"]:
        labels = f'{{namespace="{namespace}",modelservice="{service}"}}' if group["name"] == "modelmill-serving" else ""
        found |= {f"rules: {rule['record']}": rule["record"] + labels for rule in group["rules"] if "record" in rule}
    return found


def _filled(expression: str, variables: dict[str, str]) -> str:
    for variable, value in variables.items():
        expression = expression.replace(variable, value)
    return expression


def query(url: str, expression: str) -> list[dict[str, Any]]:
    """The series that an expression has now."""
    series: list[dict[str, Any]] = _ask(url, f"query?{urllib.parse.urlencode({'query': expression})}")["result"]
    return series


def unhealthy(url: str) -> dict[str, str]:
    """Rules that Prometheus has not evaluated, or not without an error -> what it says."""
    rules = [rule for group in _ask(url, "rules")["groups"] for rule in group["rules"]]
    if not rules:
        raise RuntimeError("prometheus has loaded no rules")
    return {rule["name"]: rule.get("lastError") or rule["health"] for rule in rules if rule["health"] != "ok"}


def without_data(url: str, wanted: dict[str, str], *, seconds: float) -> dict[str, str]:
    """The expressions that had no value within this time, or none that is a number."""
    end = time.monotonic() + seconds
    missing = dict(wanted)
    while missing and time.monotonic() < end:
        missing = {where: expression for where, expression in missing.items() if not _has_number(query(url, expression))}
        time.sleep(0.5)
    return missing


def _has_number(series: list[dict[str, Any]]) -> bool:
    return any(not math.isnan(float(one["value"][1])) for one in series)


def _ask(url: str, path: str) -> dict[str, Any]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{url}/api/v1/{path}", timeout=10) as answer:
        data: dict[str, Any] = json.loads(answer.read())["data"]
    return data
