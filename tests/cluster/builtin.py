"""The built-in cluster: a whole Kubernetes on a bare Linux machine, from programs that we built, as root.

`up` may be called at any time: it starts what is missing, and an interrupted one is simply called again. `down` takes
away all that `up` made but the programs and the registry's images, and touches nothing else.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster import build, config, packages
from tests.cluster.addons import Addons
from tests.cluster.controlplane import ControlPlane
from tests.cluster.node import Node
from tests.cluster.process import step, wait_until

_NODE_PROGRAMS = ("kubelet", "kube-proxy", "containerd")


def state() -> Path:
    """The running cluster's folder: certificates, logs, records of processes, volumes."""
    return build.cache_root() / "cluster"


def plane() -> ControlPlane:
    """The control plane of the shared cluster."""
    return ControlPlane(folder=state(), ports=config.Ports.fixed(), advertised=config.node_address())


def addons() -> Addons:
    """The volumes and GPUs of the shared cluster."""
    return Addons(plane=plane(), volumes=state() / "volumes")


def up() -> None:
    """Brings the cluster up, step by step; each step leaves what is right as it is."""
    _as_root()
    with step("up"), _only_one():
        with step("packages"):
            packages.install()
        with step("programs"):
            build.build(build.CLUSTER)
        control, extras = plane(), addons()
        node = _node(control)
        control.start()
        with step("registry and containerd"):
            node.start_registry()
            node.start_containerd()
        with step("images"):
            extras.import_images()
        with step("kubelet and kube-proxy"):
            node.start_kubelet()
            wait_until(lambda: _node_ready(control), f"node ready (see {state() / 'kubelet.log'})", seconds=120)
        with step("cluster DNS and volumes"):
            extras.apply()
        with step("programs for tests"):
            build.build()


def down() -> None:
    """Ends every process of the cluster and removes its state."""
    _as_root()
    if not state().exists():
        return
    with step("down"):
        control = plane()
        node = _node(control)
        control.stop_controllers()  # first: nobody replaces what goes away
        for name in _NODE_PROGRAMS:
            control.programs.stop(name, grace=3)
        control.stop()
        control.programs.stop_all(grace=3)
        node.clear()


def describe() -> str:
    """One line for each program, then the node and the pods."""
    control = plane()
    lines = [f"{name}: {'runs' if control.programs.find(name) else 'does not run'}" for name in control.programs.names()]
    if not lines:
        return "the built-in cluster is down"
    if control.get("/readyz") is None:
        return "\n".join([*lines, "the API does not answer"])
    return "\n".join([*lines, control.kubectl("get", "nodes"), control.kubectl("get", "pods", "--all-namespaces")])


def _node(control: ControlPlane) -> Node:
    return Node(
        folder=control.folder,
        registry=build.cache_root() / "registry",
        address=config.node_address(),
        server=control.server,
        programs=control.programs,
        authority=control.authority,
    )


def _node_ready(control: ControlPlane) -> bool:
    body = control.get(f"/api/v1/nodes/{config.NODE}")
    if body is None:
        return False
    node = json.loads(body)
    ready = any(condition["type"] == "Ready" and condition["status"] == "True" for condition in node["status"]["conditions"])
    return ready and not node["spec"].get("taints")


def _as_root() -> None:
    if os.geteuid() != 0:
        raise SystemExit("the built-in cluster needs root; or name a kubeconfig context in MODELMILL_CONTEXT")


@contextmanager
def _only_one() -> Iterator[None]:
    """A second `up` waits for the first."""
    lock = build.cache_root() / "cluster.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
