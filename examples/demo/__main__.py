"""The whole mill once, on the cluster that kubectl points to: `make demo`.

Installs the chart, applies examples/digits, watches it train, compress, evaluate and publish, predicts every held-out
image through the service, loads it until it scales out, and waits until it has scaled back. JSON=file writes the figures.
"""

import io
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy
from rich.console import Console

from benchmarks import load
from examples.demo import install, kube, watch

HERE = Path(__file__).parents[1]
CONNECTIONS = 40
LOAD_SECONDS = 150
SPACE = kube.Namespace("modelmill-demo")
CLIENT = """
import json, sys, urllib.request
request = urllib.request.Request(sys.argv[1], open(sys.argv[2], "rb").read(), {"Content-Type": "application/json"})
print(urllib.request.urlopen(request, timeout=60).read().decode())
"""


def main() -> None:
    console = Console()
    begun = float(os.environ.get("MODELMILL_DEMO_START", time.time()))
    step = _steps(console)
    step("helm install modelmill")
    install.install()
    step("kubectl apply -k examples/digits")
    SPACE.delete()
    SPACE.create()
    SPACE("apply", "-k", str(HERE / "digits"))
    job = _train(console)
    console.print(watch.variants_table(job))
    step("the service follows channel stable")
    service = SPACE.until("modelservice", "digits", lambda found: kube.holds(found, "Ready"), seconds=180)
    served = service["status"]
    console.print(f"  serves version {served['version']}, variant {served['variant']}, at {served['url']}", highlight=False)
    accuracy = _predict(served["url"])
    console.print(f"  accuracy over HTTP on all held-out images: {accuracy:.4f}")
    step(f"load: {CONNECTIONS} connections until it scales out")
    scaled_to, answers = _load(console, served["url"])
    step("no load: it scales back")
    SPACE.until("modelservice", "digits", lambda found: _ready(found) == 1, seconds=180)
    minutes = (time.time() - begun) / 60
    console.print(f"\n[bold]done in {minutes:.1f} minutes[/]; scaled 1 -> {scaled_to} -> 1, {answers}", highlight=False)
    _what_next(console)
    _record(job, minutes=minutes, scaled_to=scaled_to, failed=answers.failed, accuracy=accuracy)


def _steps(console: Console) -> Any:
    last = [time.time()]

    def step(text: str) -> None:
        now = time.time()
        console.print(f"[green]==>[/] {text}  [dim](+{now - last[0]:.0f} s)[/]", highlight=False)
        last[0] = now

    return step


def _train(console: Console) -> kube.Object:
    def over(job: kube.Object) -> bool:
        return kube.holds(job, "Succeeded") or kube.holds(job, "Failed")

    with watch.job_view(console) as view:
        job = SPACE.until("trainingjob", "digits", over, seconds=600, show=view.show)
    if failed := kube.condition(job, "Failed"):
        raise SystemExit(f"the TrainingJob failed: {failed['reason']}: {failed['message']}")
    return job


def _predict(url: str) -> float:
    """Accuracy of the served variant, asked over HTTP from a pod like any client of the cluster."""
    arrays = numpy.load(io.BytesIO((HERE / "digits" / "test.npz").read_bytes()), allow_pickle=False)
    images = (arrays["x"].astype("float32") / 16).round(4)[:, None].tolist()
    one = json.dumps({"instances": images[:1]})
    files = {
        "all.json": json.dumps({"instances": images}),
        "one.json": one,
        "predict.py": CLIENT,
        "load.py": Path(load.__file__).read_text(),
    }
    SPACE.apply(*kube.client_pod("client", image=install.images()["operator"], files=files))
    SPACE("wait", "--for=condition=Ready", "pod/client", "--timeout=60s")
    kube.routed(SPACE, url)
    answer = json.loads(SPACE("exec", "client", "--", "python", "/files/predict.py", url, "/files/all.json"))
    scores = numpy.asarray(answer["predictions"])
    return float((scores.argmax(axis=1) == arrays["y"]).mean())


def _ready(service: kube.Object) -> int:
    return int(service["status"].get("readyReplicas", 0))


class Answers:
    """What the load generator counted."""

    def __init__(self, report: dict[str, Any]) -> None:
        self.ok, self.failed = int(report["ok"]), int(report["failed"])

    def __str__(self) -> str:
        return f"{self.ok:,} requests answered, {self.failed} failed"


def _load(console: Console, url: str) -> tuple[int, Answers]:
    command = [
        "kubectl",
        "-n",
        SPACE.name,
        "exec",
        "client",
        "--",
        "python",
        "/files/load.py",
        url,
        "--connections",
        str(CONNECTIONS),
    ]
    command += ["--seconds", str(LOAD_SECONDS), "--body", "/files/one.json", "--json", "-"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    told, most = -1, 0
    while running.poll() is None:
        service = SPACE.get("modelservice", "digits")
        ready = _ready(service)
        if ready != told:
            scaling = service["status"].get("autoscaling", {})
            console.print(
                f"  {ready} ready; wanted {scaling.get('desiredReplicas', '-')} ({scaling.get('reason', 'no decision yet')})"
            )
            told, most = ready, max(most, ready)
        if most >= service["spec"]["maxReplicas"]:
            time.sleep(5)
            SPACE("exec", "client", "--", "python", "-c", STOP)
            break
        time.sleep(1)
    output, _ = running.communicate(timeout=LOAD_SECONDS + 60)
    return most, Answers(json.loads(output.strip().splitlines()[-1]))


# SIGINT to the load generator in the client pod: it finishes the requests under way and reports.
STOP = """
import os, pathlib, signal
for entry in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    if b"/files/load.py" in entry.read_bytes().split(b"\\0"):
        os.kill(int(entry.parent.name), signal.SIGINT)
"""


def _what_next(console: Console) -> None:
    console.print("\nTry next:")
    for command in (
        f"kubectl -n {SPACE.name} get tj,msvc",
        f"kubectl -n {SPACE.name} describe trainingjob digits",
        "kubectl explain modelservice.spec.variant",
        f"kubectl -n {SPACE.name} port-forward svc/digits 8080:80   # then POST /v1/models/digits:predict",
        f"kubectl delete namespace {SPACE.name}; make cluster-down",
    ):
        console.print(f"  {command}", highlight=False, style="cyan")


def _record(job: kube.Object, *, minutes: float, scaled_to: int, failed: int, accuracy: float) -> None:
    variants = {entry["name"]: entry for entry in job["status"]["variants"]}
    dense, int8 = variants["dense"], variants["int8"]
    measured = {name: float(entry["metrics"]["accuracy"]) for name, entry in variants.items()}
    # Cold: nothing had been built on this machine when make began.
    minutes_name = "demo_cold_minutes" if os.environ.get("MODELMILL_DEMO_COLD") else "demo_warm_minutes"
    must = [
        {"name": minutes_name, "value": round(minutes, 2), "unit": "min"},
        {"name": "digits_dense_accuracy", "value": measured["dense"], "unit": "1"},
        {"name": "digits_int8_drop", "value": round(measured["dense"] - measured["int8"], 6), "unit": "1"},
        {"name": "digits_int8_bytes_ratio", "value": round(int8["bytes"] / dense["bytes"], 4), "unit": "1"},
        {"name": "digits_served_accuracy", "value": accuracy, "unit": "1"},
        {"name": "scaled_to", "value": scaled_to, "unit": "replicas"},
        {"name": "scaling_failed_requests", "value": failed, "unit": "requests"},
    ]
    if path := os.environ.get("JSON"):
        Path(path).write_text(json.dumps({"must": must}, indent=1) + "\n")


if __name__ == "__main__":
    main()
