"""The control plane that other tests stand on does what they believe it does."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import fsspec
import pytest

from tests.cluster.build import program
from tests.cluster.controlplane import API, ControlPlane, control_plane
from tests.cluster.process import wait_until
from tests.cluster.s3 import s3_server


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with control_plane(audit=True) as running:
        yield running


def test_an_object_round_trips(plane: ControlPlane) -> None:
    plane.kubectl("create", "configmap", "round-trip", "--from-literal=a=b")
    found = json.loads(plane.kubectl("get", "configmap", "round-trip", "-o", "json"))
    assert found["data"] == {"a": "b"}


def test_the_server_knows_its_version(plane: ControlPlane) -> None:
    version = json.loads(plane.kubectl("version", "-o", "json"))["serverVersion"]
    assert (version["major"], version["minor"], version["gitVersion"][:6]) == ("1", "36", "v1.36.")


def test_controllers_work_without_a_node(plane: ControlPlane) -> None:
    plane.kubectl("create", "deployment", "nothing", "--image=localhost/nothing:1", "--replicas=2")
    wait_until(lambda: plane.kubectl("get", "pods", "-l", "app=nothing", "-o", "name").count("\n") == 2, "two pods", seconds=30)


def test_the_api_server_stops_and_comes_back_with_its_data(plane: ControlPlane) -> None:
    plane.kubectl("create", "configmap", "kept")
    plane.stop_apiserver()
    assert plane.get("/readyz") is None
    plane.start_apiserver()
    assert "kept" in plane.kubectl("get", "configmap", "-o", "name")


def test_a_paused_api_server_does_not_answer_until_resumed(plane: ControlPlane) -> None:
    plane.pause(API)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            subprocess.run([program("kubectl"), f"--kubeconfig={plane.kubeconfig}", "get", "ns"], timeout=2, check=True)
    finally:
        plane.resume(API)
    assert "default" in plane.kubectl("get", "ns", "-o", "name")


def test_the_audit_log_tells_who_wrote_what(plane: ControlPlane) -> None:
    writer = plane.kubeconfig_for("writer", groups=["system:masters"])
    kubectl = [str(program("kubectl")), f"--kubeconfig={writer}"]
    subprocess.run([*kubectl, "create", "secret", "generic", "counted"], check=True, capture_output=True)
    wait_until(lambda: len(plane.writes(user="writer")) == 1, "one write by the user 'writer'", seconds=5)
    (write,) = plane.writes(user="writer", resource="secrets")
    assert (write["verb"], write["objectRef"]["name"], write["responseStatus"]["code"]) == ("create", "counted", 201)


def test_two_control_planes_do_not_meet(plane: ControlPlane) -> None:
    with control_plane() as other:
        other.kubectl("create", "configmap", "only-here")
        assert "only-here" not in plane.kubectl("get", "configmap", "-o", "name")
        folder, programs = other.folder, other.programs
    assert not folder.exists()
    assert programs.names() == []


def test_the_s3_server_creates_an_object_once() -> None:
    with s3_server() as s3:
        store = fsspec.filesystem("s3", key=s3.access_key, secret=s3.secret_key, endpoint_url=s3.endpoint)
        store.pipe_file(f"{s3.bucket}/claimed", b"first", mode="create")
        with pytest.raises(FileExistsError):
            store.pipe_file(f"{s3.bucket}/claimed", b"second", mode="create")
        assert store.cat_file(f"{s3.bucket}/claimed") == b"first"
