"""kubectl, as the demo and the end-to-end tests use it: the real program, one call a line."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import closing
from select import select
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
        with closing(self._states(kind, name, every)) as states:
            while True:
                found = next(states)
                if show:
                    show(found)
                if holds(found):
                    return found
                if time.monotonic() > end:
                    status = json.dumps(found.get("status"), indent=1)
                    raise TimeoutError(f"{kind} {name} not there after {seconds:g} s; status: {status}")

    def _states(self, kind: str, name: str, every: float) -> Generator[Object]:
        """What the object is now, after each change and at least each `every` seconds: what is looked at may be elsewhere.

        One kubectl watches: one for each look took a seventh of the end-to-end tests' CPU."""
        while True:
            found = self.get(kind, name)
            command = ["kubectl", "-n", self.name, "get", kind, name, "-o", "json", "--watch"]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as watch:
                try:
                    yield from _documents(watch, found, every)
                finally:
                    watch.kill()


def _documents(watch: "subprocess.Popen[bytes]", found: Object, every: float) -> Generator[Object]:
    """The newest of kubectl's JSON documents, until the watch ends (the API server went, or hung up)."""
    assert watch.stdout
    text = b""
    while True:
        yield found
        if not select([watch.stdout], [], [], every)[0]:
            continue
        read = os.read(watch.stdout.fileno(), 1 << 20)
        if not read:
            return
        # kubectl indents: only the end of a document is a brace at a line's beginning.
        *whole, text = (text + read).split(b"\n}\n")
        if whole:
            found = json.loads(whole[-1] + b"}")


def routed(space: Namespace, url: str, *, pod: str = "client") -> None:
    """Waits until the pod reaches the URL's host: nodes route to a new pod about a second after the API says it is ready."""
    space("exec", pod, "--", "python", "-c", REACH, url)


REACH = """
import socket, sys, time, urllib.parse
url = urllib.parse.urlsplit(sys.argv[1])
end = time.monotonic() + 20
while True:
    try:
        socket.create_connection((url.hostname, url.port or {"http": 80, "https": 443}[url.scheme]), timeout=5).close()
        break
    except OSError:
        if time.monotonic() > end:
            raise
        time.sleep(0.1)
"""

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
