"""A real Prometheus beside the cluster, with the chart's own scrape configuration and rules, and what is asked of it.

It runs on the host, which reaches pods by their addresses in the built-in cluster. Scrapes and rules run each second, so
that a test sees data in seconds; the expressions are the chart's, to the letter.
"""

import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

MONITORING = Path(__file__).parents[2] / "helm" / "modelmill" / "monitoring"
VARIABLES = {"$__rate_interval": "30s", "$namespace": ".+", "$modelservice": ".+"}


@contextmanager
def running(kubeconfig: Path) -> Iterator[str]:
    """The URL of a Prometheus that scrapes what runs in the cluster."""
    with socket.socket() as found, tempfile.TemporaryDirectory(prefix="modelmill-prometheus-") as folder:
        found.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{found.getsockname()[1]}"
        found.close()
        configuration = Path(folder) / "prometheus.yaml"
        configuration.write_text(json.dumps(_configuration(kubeconfig)))
        command = [
            "prometheus",
            f"--config.file={configuration}",
            f"--web.listen-address={address}",
        ]
        # No proxy of this machine leads to pods.
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        with (Path(folder) / "log").open("w") as log:
            command += [f"--storage.tsdb.path={folder}/data", "--log.level=warn"]
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            try:
                yield f"http://{address}"
            finally:
                process.terminate()
                process.wait(timeout=30)


def _configuration(kubeconfig: Path) -> dict[str, Any]:
    scrape: dict[str, Any] = yaml.safe_load((MONITORING / "scrape.yaml").read_text())
    for job in scrape["scrape_configs"]:
        for discovery in job["kubernetes_sd_configs"]:
            discovery["kubeconfig_file"] = str(kubeconfig)
    intervals = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    return {"global": intervals, "rule_files": [str(MONITORING / "rules.yaml")], **scrape}


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
