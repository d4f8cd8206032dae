"""The local cluster offers what the other end-to-end tests take for granted: DNS, Services, volumes, logs, exec, GPUs."""

from __future__ import annotations

import http.server
import json
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster import builtin, config, foreign
from tests.cluster.addons import BUSYBOX_IMAGE
from tests.cluster.controlplane import ControlPlane
from tests.cluster.process import wait_until

NON_ROOT = {"runAsUser": 65532, "runAsGroup": 65532, "runAsNonRoot": True}


@pytest.fixture(scope="module")
def plane() -> ControlPlane:
    if foreign.kind_of_cluster() != "built-in":
        pytest.skip("this is about the built-in cluster, and another one is used")
    running = builtin.plane()
    if not running.kubeconfig.exists() or running.get("/readyz") is None:
        pytest.fail("the local cluster is not up: make cluster")
    return running


@pytest.fixture
def namespace(plane: ControlPlane) -> Iterator[str]:
    name = f"cluster-test-{uuid.uuid4().hex[:6]}"
    plane.kubectl("create", "namespace", name)
    yield name
    plane.kubectl("delete", "namespace", name)


def pod(name: str, script: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": BUSYBOX_IMAGE, "command": ["sh", "-c", script], **spec.pop("container", {})}
    settings = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        "securityContext": NON_ROOT,
        "containers": [container],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {**settings, **spec, "containers": [container]},
    }


def create(plane: ControlPlane, namespace: str, *documents: dict[str, Any]) -> None:
    items = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
    plane.kubectl("-n", namespace, "create", "-f", "-", given=json.dumps(items))


def finished(plane: ControlPlane, namespace: str, name: str) -> str:
    """The log of a pod that ran to its end."""

    def phase() -> str:
        return plane.kubectl("-n", namespace, "get", "pod", name, "-o", "jsonpath={.status.phase}")

    wait_until(lambda: phase() in {"Succeeded", "Failed"}, f"pod {name} ended", seconds=60, pause=0.5)
    log = plane.kubectl("-n", namespace, "logs", name)
    assert phase() == "Succeeded", log
    return log


def test_a_pod_reaches_services_by_name_and_is_reached_by_logs_and_exec(plane: ControlPlane, namespace: str) -> None:
    server = pod("web", "mkdir /tmp/www; echo hello >/tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www")
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "site"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    create(plane, namespace, server, service)
    plane.kubectl("-n", namespace, "wait", "--for=condition=Ready", "pod/web", "--timeout=60s")
    full = f"site.{namespace}.svc.cluster.local"
    create(
        plane,
        namespace,
        pod("client", f"nslookup {full} && timeout 10 wget -qO- http://site && timeout 10 wget -qO- http://{full}"),
    )
    assert finished(plane, namespace, "client").count("hello") == 2
    assert plane.kubectl("-n", namespace, "exec", "web", "--", "id", "-u") == "65532\n"
    # A pod that calls its own Service gets its own answer.
    assert plane.kubectl("-n", namespace, "exec", "web", "--", "timeout", "10", "wget", "-qO-", "http://site") == "hello\n"


def test_a_volume_is_written_by_a_pod_that_is_not_root_and_recycled_after_it(plane: ControlPlane, namespace: str) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    mounts = {"volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]
    writer = pod("writer", "echo kept >/data/file && cat /data/file", volumes=volumes, container=mounts)
    create(plane, namespace, claim, writer)
    assert finished(plane, namespace, "writer") == "kept\n"
    volume = plane.kubectl("-n", namespace, "get", "pvc", "data", "-o", "jsonpath={.spec.volumeName}")
    written = builtin.addons().volumes / volume / "file"
    assert written.read_text() == "kept\n"
    plane.kubectl("-n", namespace, "delete", "pod/writer", "pvc/data")

    def wiped() -> bool:
        builtin.addons().recycle_volumes()
        return not written.exists()

    wait_until(wiped, f"volume {volume} was released and wiped", seconds=30, pause=1)


def test_a_pod_reaches_the_api_and_a_server_of_the_host(plane: ControlPlane, namespace: str) -> None:
    class Hello(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"from the host")

    with http.server.ThreadingHTTPServer((config.node_address(), 0), Hello) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"http://{config.node_address()}:{server.server_port}"
        script = f"timeout 10 wget -qO- {host} && nc -w 5 {config.SERVICE_OF_API} 443 </dev/null"
        create(plane, namespace, pod("caller", script))
        assert finished(plane, namespace, "caller") == "from the host"
        server.shutdown()


@pytest.mark.alone  # tests/e2e/test_gpu.py plays with the same cards
def test_gpus_that_are_played_are_given_out_one_by_one(plane: ControlPlane, namespace: str) -> None:
    builtin.addons().set_gpus(1)
    try:
        wants = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
        create(plane, namespace, pod("first", "sleep 3600", container=wants))
        plane.kubectl("-n", namespace, "wait", "--for=condition=Ready", "pod/first", "--timeout=60s")
        create(plane, namespace, pod("second", "sleep 3600", container=wants))
        message = ["-n", namespace, "get", "pod", "second", "-o", "jsonpath={.status.conditions[0].message}"]
        wait_until(lambda: "Insufficient nvidia.com/gpu" in plane.kubectl(*message), "the second pod waits for a GPU", seconds=30)
    finally:
        builtin.addons().set_gpus(0)


def test_bringing_up_a_cluster_that_is_up_leaves_every_program_alone(plane: ControlPlane) -> None:
    before = {name: plane.programs.find(name) for name in plane.programs.names()}
    builtin.up()
    time.sleep(2)  # kube-proxy takes a moment to end itself
    assert {name: plane.programs.find(name) for name in plane.programs.names()} == before
    assert None not in before.values()
