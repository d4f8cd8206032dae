"""Operators as processes: started, asked, killed; and what tests ask about the resources that they look after."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelmill_operator.engine.kinds import KINDS
from tests.cluster.controlplane import ControlPlane
from tests.cluster.process import wait_until
from tests.ports import free_port

TOY = "tests.control_plane.toy_operator"
REAL = "modelmill_operator"
ROOT = Path(__file__).parents[2]


_starting = threading.Lock()


@dataclass(kw_only=True)
class Operator:
    """One operator process."""

    kubeconfig: Path
    namespace: str
    module: str = TOY
    flags: Sequence[str] = ()
    log: Path = field(default_factory=lambda: Path("/dev/null"))
    process: subprocess.Popen[bytes] | None = None
    health_port: int = 0
    report_port: int = 0

    def start(self) -> None:
        self.health_port, self.report_port = free_port(), free_port()
        command = [sys.executable, "-m", self.module, "--namespaces", self.namespace, "--bind-address", "127.0.0.1"]
        command += ["--lease-namespace", self.namespace, "--log-json", "false"]
        command += ["--health-listen-port", str(self.health_port), "--report-listen-port", str(self.report_port), *self.flags]
        with self.log.open("ab") as log:
            environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig)}
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)

    def wait_ready(self, *, seconds: float = 60) -> None:
        wait_until(lambda: self.page("readyz") == 200, f"the operator in {self.namespace} is ready", seconds=seconds)

    def page(self, name: str) -> int | None:
        """The status of /healthz, /readyz or /metrics; None where nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}/{name}", timeout=5) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def metric(self, name: str) -> float:
        """The value of a metric without labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}/metrics", timeout=5) as response:
            lines = response.read().decode().splitlines()
        return float(next(line.rpartition(" ")[2] for line in lines if line.startswith(f"modelmill_operator_{name} ")))

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill9(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def stop(self) -> int:
        """A polite end; the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout=30)


@contextlib.contextmanager
def operator(kubeconfig: Path, *, namespace: str, flags: Sequence[str] = (), module: str = TOY) -> Iterator[Operator]:
    """A ready operator for the time of the block; its log is shown when the block fails."""
    log = kubeconfig.with_suffix(f".{namespace}.{free_port()}.log")
    running = Operator(kubeconfig=kubeconfig, namespace=namespace, flags=flags, module=module, log=log)
    try:
        # One at a time: an operator that starts takes seconds of a core.
        with _starting:
            running.start()
            running.wait_ready(seconds=120)
        yield running
    except BaseException:
        print(f"--- log of the operator in {namespace}\n{log.read_text()[-6000:]}", file=sys.stderr)
        raise
    finally:
        running.kill9()


def training_job(name: str, *, namespace: str, **spec: Any) -> dict[str, Any]:
    """A small valid TrainingJob."""
    small = {
        "model": {"name": "m"},
        "registry": {"uri": "s3://models"},
        "recipe": {"configMap": "recipe", "entrypoint": "recipe:Recipe"},
        "data": {"train": {"uri": "s3://data/train.parquet"}},
    }
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "modelmill.io/v1alpha1", "kind": "TrainingJob", "metadata": metadata, "spec": small | spec}


def create(plane: ControlPlane, *items: dict[str, Any]) -> None:
    plane.kubectl("create", "-f", "-", given=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(items)}))


def listed(plane: ControlPlane, kind: str, *, namespace: str) -> list[dict[str, Any]]:
    """All objects of a watched kind. Not by kubectl: a poll must not cost a process."""
    body = plane.get(KINDS[kind].path(namespace=namespace))
    assert body is not None, f"{kind} of {namespace} cannot be listed"
    found: list[dict[str, Any]] = json.loads(body)["items"]
    return found


def unconverged(plane: ControlPlane, *, namespace: str) -> list[str]:
    """What is not yet as the toy planner wants it, in words; empty when all is well."""
    jobs = listed(plane, "TrainingJob", namespace=namespace)
    children = [
        child
        for child in listed(plane, "ConfigMap", namespace=namespace)
        if child["metadata"].get("labels", {}).get("app.kubernetes.io/managed-by") == "modelmill"
    ]
    by_uid = {child["metadata"]["labels"]["modelmill.io/uid"]: child for child in children}
    wrong = [f"{len(children)} children for {len(jobs)} jobs"] if len(children) != len(jobs) else []
    for job in jobs:
        name, generation = job["metadata"]["name"], job["metadata"]["generation"]
        child = by_uid.get(job["metadata"]["uid"])
        if child is None or child["data"] != {"generation": str(generation)}:
            wrong.append(f"{name}: child {child and child['data']} for generation {generation}")
        if job.get("status", {}).get("observedGeneration") != generation:
            wrong.append(f"{name}: status {job.get('status')} for generation {generation}")
    return wrong


def wait_converged(plane: ControlPlane, *, namespace: str, seconds: float = 60) -> None:
    wrong: list[str] = []

    def converged() -> bool:
        wrong[:] = unconverged(plane, namespace=namespace)
        return not wrong

    try:
        wait_until(converged, f"{namespace} converged", seconds=seconds, pause=0.5)
    except Exception as error:
        raise AssertionError(f"{namespace} did not converge in {seconds} s: {wrong}") from error
