"""kubectl, as the demo and the end-to-end tests use it: the real program, one call a line."""

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any

Object = dict[str, Any]


class KubeError(RuntimeError):
    """kubectl said no; the message is its own."""


def kubectl(*arguments: str, stdin: str | None = None, timeout: float = 120.0) -> str:
    done = subprocess.run(["kubectl", *arguments], input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise KubeError(f"kubectl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


class Namespace:
    """One namespace and the few verbs that are needed in it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *arguments: str, stdin: str | None = None, timeout: float = 120.0) -> str:
        return kubectl("-n", self.name, *arguments, stdin=stdin, timeout=timeout)

    def create(self) -> None:
        manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name, "labels": RESTRICTED}}
        kubectl("apply", "-f", "-", stdin=json.dumps(manifest))

    def delete(self, *, wait: bool = True) -> None:
        kubectl("delete", "namespace", self.name, "--ignore-not-found", f"--wait={str(wait).lower()}", timeout=300)

    def apply(self, *objects: Object) -> None:
        self("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def get(self, kind: str, name: str) -> Object:
        found: Object = json.loads(self("get", kind, name, "-o", "json"))
        return found

    def list(self, kind: str, *, selector: str = "") -> list[Object]:
        items: list[Object] = json.loads(self("get", kind, "-l", selector, "-o", "json"))["items"]
        return items

    def until(
        self,
        kind: str,
        name: str,
        holds: Callable[[Object], Any],
        *,
        seconds: float,
        every: float = 0.5,
        show: Callable[[Object], None] | None = None,
    ) -> Object:
        """Looks until `holds` is true of the object; returns it. A TimeoutError shows the last status."""
        end = time.monotonic() + seconds
        while True:
            found = self.get(kind, name)
            if show:
                show(found)
            if holds(found):
                return found
            if time.monotonic() > end:
                raise TimeoutError(
                    f"{kind} {name} not there after {seconds:g} s; status: {json.dumps(found.get('status'), indent=1)}"
                )
            time.sleep(every)


# Everything Modelmill runs fits the restricted pod security standard; namespaces here enforce it.
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


def condition(resource: Object, kind: str) -> Object | None:
    return next((c for c in resource.get("status", {}).get("conditions", ()) if c["type"] == kind), None)


def holds(resource: Object, kind: str) -> bool:
    found = condition(resource, kind)
    return found is not None and found["status"] == "True"


def client_pod(name: str, *, image: str, files: dict[str, str]) -> list[Object]:
    """A pod that idles until somebody execs into it, with files at /files: a client as any other in the cluster."""
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    pod_security = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    container = {
        "name": "client",
        "image": image,
        "command": ["python", "-c", "import signal; signal.sigwait({signal.SIGTERM})"],
        "securityContext": security,
        # Without, a busy node gives it nothing: it would measure its own waiting.
        "resources": {"requests": {"cpu": "100m"}},
        "volumeMounts": [{"name": "files", "mountPath": "/files"}],
    }
    spec = {
        "containers": [container],
        "volumes": [{"name": "files", "configMap": {"name": name}}],
        "securityContext": pod_security,
        "terminationGracePeriodSeconds": 1,
    }
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": files},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec},
    ]
