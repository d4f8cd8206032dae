"""A real control plane: etcd, kube-apiserver and kube-controller-manager, and a scheduler where there is a node.

`control_plane()` is for tests: free ports, a temporary folder, several at once, gone when the block ends, also when
the test process is killed (a watchdog sees its pipe close). The shared cluster uses the same class with fixed ports
and a folder that stays.

    with control_plane(audit=True) as plane:
        plane.kubectl("apply", "-f", "crds/")
        operator = plane.kubeconfig_for("operator")
        plane.stop_apiserver(); ...; plane.start_apiserver()
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster import build, config
from tests.cluster.pki import Authority
from tests.cluster.process import ClusterError, Programs, http_status, step, wait_until

ETCD, API, CONTROLLERS, SCHEDULER = "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"


@dataclass(kw_only=True)
class ControlPlane:
    """The programs of one control plane, their folder, and what tests do to them."""

    folder: Path
    ports: config.Ports
    advertised: str | None = None  # the address for pods; None: no node, no scheduler
    audit: bool = False
    programs: Programs = field(init=False)
    authority: Authority = field(init=False)

    def __post_init__(self) -> None:
        self.programs = Programs(self.folder)
        self.authority = Authority(folder=self.folder / "pki")

    @property
    def server(self) -> str:
        """The API server's URL on this machine."""
        return f"https://127.0.0.1:{self.ports.api}"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        path = self.authority.folder / "admin.kubeconfig"
        return path if path.exists() else self.kubeconfig_for("admin", groups=["system:masters"])

    def kubeconfig_for(self, user: str, *, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig with a client certificate for this user: what RBAC allows and the audit log names."""
        name = "-".join([user, *groups]).replace("/", "_").replace(":", "-") if user != "admin" else "admin"
        return self.authority.kubeconfig(name, server=self.server, user=user, groups=groups)

    def start(self) -> None:
        """Starts what does not run, and waits until the API and its controllers work."""
        with step("etcd"):
            arguments = config.etcd_arguments(self.ports, self.folder / "etcd-data")
            self.programs.start(ETCD, [build.program("etcd"), *arguments])
            self.programs.wait(ETCD, lambda: http_status(self.ports.etcd, "/health") == 200)
        with step("kube-apiserver"):
            self.start_apiserver()
        with step("kube-controller-manager"):
            self.start_controllers()
            self.programs.wait(CONTROLLERS, self._has_default_account)

    def start_apiserver(self) -> None:
        """Starts the API server and waits until it is ready."""
        addresses = ["IP:127.0.0.1", f"IP:{config.SERVICE_OF_API}", "DNS:localhost"]
        addresses += [f"DNS:{name}" for name in ("kubernetes", "kubernetes.default", "kubernetes.default.svc")]
        arguments = config.apiserver_arguments(
            self.ports,
            authority=self.authority,
            serving=self.authority.issue("apiserver", user="kube-apiserver", addresses=addresses),
            tokens=self.authority.signing_pair("service-accounts"),
            advertised=self.advertised,
        )
        self.programs.start(API, [build.program("kube-apiserver"), *arguments, *self._audit_arguments()])
        self.programs.wait(API, lambda: self.get("/readyz") is not None, seconds=120)

    def stop_apiserver(self) -> None:
        """Ends the API server politely; its port refuses connections from then on."""
        self.programs.stop(API, grace=2)  # left alone it would wait a minute for watches to end

    def start_controllers(self) -> None:
        """Starts the controller manager, and the scheduler where there are nodes."""
        arguments = config.controllers_arguments(
            self.ports,
            authority=self.authority,
            kubeconfig=self._component_kubeconfig(CONTROLLERS),
            tokens=self.authority.signing_pair("service-accounts"),
            nodes=self.advertised is not None,
        )
        self.programs.start(CONTROLLERS, [build.program("kube-controller-manager"), *arguments])
        if self.advertised is not None:
            arguments = config.scheduler_arguments(self.ports, kubeconfig=self._component_kubeconfig(SCHEDULER))
            self.programs.start(SCHEDULER, [build.program("kube-scheduler"), *arguments])

    def stop_controllers(self) -> None:
        """Ends the controller manager and the scheduler: nothing replaces a pod any more."""
        self.programs.stop(CONTROLLERS, grace=2)
        self.programs.stop(SCHEDULER, grace=2)

    def kill9(self, name: str = API) -> None:
        """Kills a program at once, as the kernel would."""
        self.programs.signal(name, signal.SIGKILL)
        self.programs.stop(name)

    def pause(self, name: str = API) -> None:
        """Stops a program in its tracks: connections stay open and nobody answers."""
        self.programs.signal(name, signal.SIGSTOP)

    def resume(self, name: str = API) -> None:
        """Lets a paused program go on."""
        self.programs.signal(name, signal.SIGCONT)

    def stop(self) -> None:
        """Ends every program, leaving the data."""
        self.stop_controllers()
        self.stop_apiserver()
        self.programs.stop(ETCD, grace=2)

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """Runs kubectl as the administrator, with `given` as its input; a failure is raised with its own words."""
        command = [str(build.program("kubectl")), f"--kubeconfig={self.kubeconfig}", *arguments]
        ended = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
        if ended.returncode != 0:
            raise ClusterError(f"kubectl {' '.join(arguments)}: {ended.stderr.strip() or ended.stdout.strip()}")
        return ended.stdout

    def get(self, path: str) -> bytes | None:
        """The body of a GET as the administrator, or None where it does not answer 200."""
        admin = self.kubeconfig.parent / "admin"
        context = ssl.create_default_context(cafile=str(self.authority.root.crt))
        context.load_cert_chain(admin.with_suffix(".crt"), admin.with_suffix(".key"))
        connection = http.client.HTTPSConnection("127.0.0.1", self.ports.api, context=context, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
            return body if response.status == 200 else None
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def audit_events(self) -> list[dict[str, Any]]:
        """Every request that has been answered so far; needs `audit=True`."""
        text = (self.folder / "audit.log").read_text()
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def writes(self, *, user: str | None = None, resource: str | None = None) -> list[dict[str, Any]]:
        """The answered requests that write, of one user and one resource (plural name) where these are given."""
        return [
            event
            for event in self.audit_events()
            if event["verb"] in {"create", "update", "patch", "delete", "deletecollection"}
            and user in (None, event["user"]["username"])
            and resource in (None, event.get("objectRef", {}).get("resource"))
        ]

    def _audit_arguments(self) -> list[str]:
        if not self.audit:
            return []
        policy = self.folder / "audit-policy.json"
        policy.write_text(json.dumps(config.AUDIT_POLICY))
        return [f"--audit-policy-file={policy}", f"--audit-log-path={self.folder / 'audit.log'}", "--audit-log-maxsize=2000"]

    def _component_kubeconfig(self, component: str) -> Path:
        return self.authority.kubeconfig(component, server=self.server, user=f"system:{component}")

    def _has_default_account(self) -> bool:
        return self.get("/api/v1/namespaces/default/serviceaccounts/default") is not None


@contextmanager
def control_plane(*, audit: bool = False) -> Iterator[ControlPlane]:
    """A control plane of its own for the time of the block."""
    build.build(build.CONTROL_PLANE)
    with watched_folder("modelmill-plane-") as folder:
        plane = ControlPlane(folder=folder, ports=config.Ports.free(), audit=audit)
        try:
            plane.start()
            yield plane
        finally:
            plane.programs.stop_all(grace=0)


@contextmanager
def watched_folder(prefix: str) -> Iterator[Path]:
    """A temporary folder whose programs end and whose files go with this process, however it ends."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    command = [sys.executable, "-c", f"from {__name__} import watch; watch()", str(folder)]
    root = Path(__file__).parents[2]
    watchdog = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=root, start_new_session=True)
    try:
        yield folder
    finally:
        assert watchdog.stdin is not None
        watchdog.stdin.close()
        wait_until(lambda: watchdog.poll() is not None, f"the watchdog of {folder} ended", seconds=60, pause=0.02)


def watch() -> None:
    """The watchdog's program: when its input ends, so do the folder's programs, and then the folder."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    folder = Path(sys.argv[1])
    os.read(0, 1)
    Programs(folder).stop_all(grace=0)
    shutil.rmtree(folder, ignore_errors=True)
