"""Pods follow the load, up and down, and no request notices; or they follow whoever sets the scale, when so told."""

import json
from functools import partial

import pytest

from examples.demo import kube
from tests.e2e import serving
from tests.e2e.conftest import Record
from tests.e2e.serving import Version

MOST = 3
CONNECTIONS = 16


@pytest.fixture(scope="module")
def service(space: kube.Namespace) -> kube.Object:
    serving.pods(space)
    serving.publish(space, Version(seed=1, hyperparameters={"width": 16, "pause": 0.1}))
    # 70 % of 6 in flight are aimed at: 16 connections need four pods, one more than there may be.
    space.apply(serving.service(maxReplicas=MOST, scaleTarget=6, stableWindow="10s", batcher={"maxBatchSize": 4}))
    return serving.served(space, 1)


def _ready(found: kube.Object, *, count: int) -> bool:
    return bool(found["status"].get("readyReplicas") == count == found["status"].get("replicas"))


def test_load_brings_pods_and_calm_takes_them_away(space: kube.Namespace, service: kube.Object, must: Record) -> None:
    with serving.traffic(space, service, connections=CONNECTIONS) as busy:
        grown = space.until("modelservice", "digits", partial(_ready, count=MOST), seconds=serving.SECONDS)
    # The last requests come from one client, while pods go.
    with serving.traffic(space, service, connections=1) as calm:
        space.until("modelservice", "digits", partial(_ready, count=1), seconds=serving.SECONDS)
    must("scaled_to", grown["status"]["readyReplicas"], "1")
    must("scaling_failed_requests", busy.failed + calm.failed, "1")
    decision = grown["status"]["autoscaling"]
    assert decision["desiredReplicas"] == MOST
    assert float(decision["panicConcurrency"]) > 6
    assert (busy.failed, calm.failed) == (0, 0), (busy, calm)
    assert busy.ok > 50
    assert calm.ok > 50
    told = [event["message"] for event in space.list("events") if event["reason"] == "Scaled"]
    assert any(f"to {MOST} replicas" in message for message in told)
    assert any("to 1 replicas" in message for message in told)


def test_external_scaling_is_obeyed_and_left_alone(space: kube.Namespace, service: kube.Object) -> None:
    space("patch", "modelservice", "digits", "--type=merge", "-p", '{"spec":{"autoscaling":"External"}}')
    for wanted in (2, 1):
        space("scale", "msvc/digits", f"--replicas={wanted}")
        found = space.until("modelservice", "digits", partial(_ready, count=wanted), seconds=serving.SECONDS)
        assert found["spec"]["replicas"] == wanted
        assert "autoscaling" not in found["status"]
    scale = space("get", "--raw", f"/apis/modelmill.io/v1alpha1/namespaces/{space.name}/modelservices/digits/scale")
    assert f'"selector":"{found["status"]["selector"]}"' in scale
    assert _setters_of_replicas(space) == {("kubectl", "scale")}


def _setters_of_replicas(space: kube.Namespace) -> set[tuple[str, str | None]]:
    """Who has set spec.replicas, and through which subresource."""
    found = json.loads(space("get", "modelservice", "digits", "-o", "json", "--show-managed-fields"))
    fields = found["metadata"]["managedFields"]
    return {(f["manager"], f.get("subresource")) for f in fields if "f:replicas" in f["fieldsV1"].get("f:spec", {})}
