"""A real Prometheus beside the cluster, with the chart's own relabelling and rules, and what is asked of it.

It runs on the host, which reaches pods by their addresses in the built-in cluster. Debian builds its Prometheus without
the discovery of Kubernetes, so a thread writes the targets, with the labels that discovery gives, to a file. Scrapes and
rules run each second, so that a test sees data in seconds; the expressions are the chart's, to the letter.
"""

import json
import os
import re
import socket
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

MONITORING = Path(__file__).parents[2] / "helm" / "modelmill" / "monitoring"
VARIABLES = {"$__rate_interval": "30s", "$namespace": ".+", "$modelservice": ".+"}


@contextmanager
def running() -> Iterator[str]:
    """The URL of a Prometheus that scrapes what runs in the cluster."""
    with tempfile.TemporaryDirectory(prefix="modelmill-prometheus-") as name:
        folder, stop = Path(name), threading.Event()
        (folder / "prometheus.yaml").write_text(json.dumps(_configuration(folder / "targets.json")))
        finder = threading.Thread(target=_find_targets, args=(folder / "targets.json", stop))
        finder.start()
        address = f"127.0.0.1:{_free_port()}"
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


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


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
    while not stop.wait(1):
        try:
            pods = json.loads(kube.kubectl("get", "pods", "-A", "-l", "app.kubernetes.io/part-of=modelmill", "-o", "json"))[
                "items"
            ]
            pods += json.loads(kube.kubectl("get", "pods", "-A", "-l", "modelmill.io/role=server", "-o", "json"))["items"]
        except kube.KubeError:
            continue
        written = file.with_suffix(".new")
        written.write_text(json.dumps([target for pod in pods for target in _targets(pod)]))
        written.replace(file)


def _targets(pod: kube.Object) -> Iterator[dict[str, Any]]:
    """One for each port of a pod, with the labels that discovery of Kubernetes gives."""
    meta = {"__meta_kubernetes_namespace": pod["metadata"]["namespace"], "__meta_kubernetes_pod_name": pod["metadata"]["name"]}
    for label, value in pod["metadata"]["labels"].items():
        meta["__meta_kubernetes_pod_label_" + re.sub(r"[^a-zA-Z0-9_]", "_", label)] = value
    for port in pod["spec"]["containers"][0].get("ports", []):
        if address := pod["status"].get("podIP"):
            labels = {**meta, "__meta_kubernetes_pod_container_port_name": port["name"]}
            yield {"targets": [f"{address}:{port['containerPort']}"], "labels": labels}


def expressions() -> dict[str, str]:
    """Where an expression stands -> the expression: every panel and every recorded value that alerts look at."""
    found = {}
    for path in sorted(MONITORING.glob("dashboard-*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                found[f"{path.stem}: {panel['title']} ({target['refId']})"] = _filled(target["expr"])
    for group in yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"]:
        found |= {f"rules: {rule['record']}": rule["record"] for rule in group["rules"] if "record" in rule}
    return found


def _filled(expression: str) -> str:
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    return expression


def query(url: str, expression: str) -> list[dict[str, Any]]:
    """The series that an expression has now."""
    asked = f"{url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(asked, timeout=10) as answer:
        series: list[dict[str, Any]] = json.loads(answer.read())["data"]["result"]
    return series


def without_data(url: str, *, seconds: float) -> dict[str, str]:
    """The expressions that still have no data after this time."""
    end = time.monotonic() + seconds
    missing = expressions()
    while missing and time.monotonic() < end:
        missing = {where: expression for where, expression in missing.items() if not query(url, expression)}
        time.sleep(0.5)
    return missing
