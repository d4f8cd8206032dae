"""Two pods for tests of serving: `shop` publishes versions with the `modelmill` command, `client` sends requests.

Versions come from `modelmill import` of the digits network with random weights: nothing needs to be trained.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import load
from examples.demo import install, kube
from tests.e2e import resources

RECIPES = Path(__file__).parent / "recipes"
REGISTRY = "/modelmill/registry"
PAUSE = 0.02
"""Seconds in each forward pass: steady load shall leave room on the CPUs for pods that start."""
ROW: dict[str, Any] = {"instances": [[[[0.0] * 8] * 8]]}
SECONDS = 240.0
"""How long a change of a service may take on a busy machine."""


def tensor(*, value: float = 0.0, **changes: Any) -> dict[str, Any]:
    """A request of the Open Inference Protocol with one image, with fields of its tensor replaced."""
    return {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [value] * 64, **changes}]}


def pods(space: kube.Namespace) -> None:
    """Starts both, and waits for them."""
    files = [resources.DIGITS / "recipe.py", RECIPES / "served.py", RECIPES / "shop.py"]
    config, shop = kube.client_pod(
        "shop", image=install.images()["runtime"], files={file.name: file.read_text() for file in files}
    )
    container = shop["spec"]["containers"][0]
    shop["spec"]["volumes"].append({"name": "models", "persistentVolumeClaim": {"claimName": "models"}})
    container["volumeMounts"].append({"name": "models", "mountPath": REGISTRY})
    container["env"] = [
        {"name": "MODELMILL_REGISTRY", "value": f"file://{REGISTRY}/registry"},
        {"name": "MODELMILL_NAMESPACE", "value": space.name},
    ]
    space.apply(config, shop)
    client(space)
    space("wait", "--for=condition=Ready", "pod/shop", "--timeout=180s", timeout=200)


def client(space: kube.Namespace) -> None:
    """Starts the pod `client` alone, and waits for it."""
    told = {"load.py": Path(load.__file__).read_text(), "ask.py": (RECIPES / "ask.py").read_text(), "row.json": json.dumps(ROW)}
    space.apply(*kube.client_pod("client", image=install.images()["operator"], files=told))
    space("wait", "--for=condition=Ready", "pod/client", "--timeout=180s", timeout=200)


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A version to publish."""

    seed: int
    model: str = "digits"
    channel: str | None = "stable"
    hyperparameters: dict[str, Any] = field(default_factory=lambda: {"width": 16, "pause": PAUSE})


def publish(space: kube.Namespace, *versions: Version) -> None:
    wanted = [{"model": v.model, "seed": v.seed, "channel": v.channel, "hyperparameters": v.hyperparameters} for v in versions]
    space("exec", "shop", "--", "python", "/files/shop.py", json.dumps(wanted), timeout=300)


def modelmill(space: kube.Namespace, *arguments: str) -> str:
    """The `modelmill` command, where the registry is mounted."""
    return space("exec", "shop", "--", "python", "-m", "modelmill.cli", *arguments, timeout=300)


def service(name: str = "digits", **changes: Any) -> kube.Object:
    """A ModelService with one pod of the dense variant, until told otherwise."""
    given = {"variant": {"name": "dense"}, "minReplicas": 1, "maxReplicas": 1, "scaleTarget": 100, **changes}
    return resources.model_service(name, **given)


def serves(found: kube.Object, version: int) -> bool:
    return kube.holds(found, "Ready") and kube.holds(found, "RolledOut") and found["status"].get("version") == version


def served(space: kube.Namespace, version: int, *, name: str = "digits", alone: bool = False) -> kube.Object:
    """The service when the version has the traffic and `client` reaches it; `alone`: and pods of other versions are gone."""

    def done(found: kube.Object) -> bool:
        return serves(found, version) and not (alone and _others(space, name, version))

    found = space.until("modelservice", name, done, seconds=SECONDS, every=1.0)
    kube.routed(space, found["status"]["url"])
    return found


def servers(space: kube.Namespace, name: str = "digits") -> list[kube.Object]:
    return space.list("pods", selector=f"modelmill.io/modelservice={name},modelmill.io/role=server")


def server(space: kube.Namespace, name: str = "digits") -> kube.Object:
    """The newest server: an older one may be on its way out."""
    return max(servers(space, name), key=lambda pod: str(pod["metadata"]["creationTimestamp"]))


def restarts(pod: kube.Object) -> int:
    return sum(status["restartCount"] for status in pod["status"].get("containerStatuses", ()))


def _others(space: kube.Namespace, name: str, version: int) -> list[kube.Object]:
    found = servers(space, name)
    return [pod for pod in found if pod["metadata"]["labels"]["modelmill.io/version"] != str(version)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Status 0: no answer, the body tells why."""

    status: int
    headers: dict[str, str]
    body: str

    @property
    def error(self) -> str:
        told: str = json.loads(self.body)["error"]
        return told


def request(
    url: str, body: Any = None, *, headers: dict[str, str] | None = None, ca: str | None = None, seconds: float = 60.0
) -> dict[str, Any]:
    """A request for `ask`: POST when it has a body; one that is no text is sent as JSON."""
    text = body if isinstance(body, str) or body is None else json.dumps(body)
    content = {} if body is None else {"Content-Type": "application/json"}
    return {"url": url, "body": text, "headers": {**content, **(headers or {})}, "ca": ca, "seconds": seconds}


def ask(space: kube.Namespace, *requests: dict[str, Any]) -> list[Answer]:
    """Sends the requests from the client's pod, all at once."""
    told = space("exec", "-i", "client", "--", "python", "/files/ask.py", stdin=json.dumps(requests), timeout=300)
    return [Answer(**answer) for answer in json.loads(told)]


def base(found: kube.Object) -> str:
    """The service's URL without the path of a protocol."""
    url: str = found["status"]["url"]
    return url.partition("/v1/")[0]


def answering_version(space: kube.Namespace, found: kube.Object) -> int:
    """The version that answers requests now, in the answer's own words."""
    (answer,) = ask(space, request(base(found) + "/v2/models/digits/infer", tensor()))
    assert answer.status == 200, answer
    return int(json.loads(answer.body)["model_version"])


@dataclass(slots=True)
class Traffic:
    """What steady load met; filled in when it ends."""

    ok: int = 0
    failed: int = 0
    codes: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


@contextmanager
def traffic(space: kube.Namespace, found: kube.Object, *, connections: int = 4) -> Iterator[Traffic]:
    """Steady load from the client's pod until the block ends."""
    run = f"echo $$ > /tmp/load.pid; exec python /files/load.py {found['status']['url']} --body /files/row.json"
    command = ["kubectl", "-n", space.name, "exec", "client", "--", "sh", "-c"]
    command.append(f"{run} --connections {connections} --seconds 900 --every 5 --json -")
    told = Traffic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        print(process.stderr.readline(), end="", file=sys.stderr)  # the first figures: it runs
        try:
            yield told
        finally:
            space("exec", "client", "--", "sh", "-c", "kill -INT $(cat /tmp/load.pid)")
            report, progress = process.communicate(timeout=150)
            print(progress, file=sys.stderr)
    counted = json.loads(report)
    told.ok, told.failed, told.codes, told.errors = (counted[name] for name in ("ok", "failed", "codes", "errors"))
