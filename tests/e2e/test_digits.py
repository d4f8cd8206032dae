"""examples/digits as it is shipped: applied with kubectl, trained, compressed, judged, published, and asked for answers."""

import io
import json
from typing import Any

import numpy
import pytest

from examples.demo import install, kube
from tests.e2e import resources
from tests.e2e.conftest import Record

ASK = """
import sys, urllib.request
request = urllib.request.Request(sys.argv[1], open(sys.argv[2], "rb").read(), {"Content-Type": "application/json"})
print(urllib.request.urlopen(request, timeout=60).read().decode())
"""
SCALE = 16
"""The recipe takes pixels of 0 to 1, the files have 0 to 16."""
ASKED = 150
"""Held-out images sent in each protocol: kubectl apply takes no larger files."""


@pytest.fixture(scope="module")
def digits(space: kube.Namespace) -> kube.Object:
    """The TrainingJob of the example when it is done."""
    space("apply", "-k", str(resources.DIGITS))
    return resources.finished(space, "digits")


@pytest.fixture(scope="module")
def service(space: kube.Namespace, digits: kube.Object) -> kube.Object:
    """The ModelService of the example when it is ready, and a pod that knows the held-out images."""
    images = (_held_out()["x"][:ASKED].astype("float32") / SCALE)[:, None]
    tensor = {"name": "image", "datatype": "FP32", "shape": list(images.shape), "data": images.ravel().tolist()}
    files = {
        "ask.py": ASK,
        "v1.json": json.dumps({"instances": images.tolist()}),
        "v2.json": json.dumps({"inputs": [tensor]}),
    }
    space.apply(*kube.client_pod("client", image=install.images()["operator"], files=files))
    space("wait", "--for=condition=Ready", "pod/client", "--timeout=120s")
    found = space.until("modelservice", "digits", lambda found: kube.holds(found, "Ready"), seconds=240)
    kube.routed(space, found["status"]["url"])
    return found


def _held_out() -> dict[str, Any]:
    return dict(numpy.load(io.BytesIO((resources.DIGITS / "test.npz").read_bytes()), allow_pickle=False))


def test_the_model_is_good_and_its_int8_variant_as_good_in_a_quarter_of_the_bytes(digits: kube.Object, must: Record) -> None:
    variants = {entry["name"]: entry for entry in digits["status"]["variants"]}
    dense, int8 = variants["dense"], variants["int8"]
    accuracy = float(dense["metrics"]["accuracy"])
    drop = accuracy - float(int8["metrics"]["accuracy"])
    ratio = int8["bytes"] / dense["bytes"]
    must("digits_dense_accuracy", accuracy, "1")
    must("digits_int8_drop", round(drop, 6), "1")
    must("digits_int8_bytes_ratio", round(ratio, 4), "1")
    assert accuracy >= 0.97
    assert drop <= 0.01
    assert ratio <= 0.30
    assert all(entry["passed"] for entry in variants.values())
    assert all({"accuracy", "recall", "f1", "auc"} <= entry["metrics"].keys() for entry in variants.values())


def test_it_is_published_once_in_the_channel_that_was_asked_for(digits: kube.Object) -> None:
    status = digits["status"]
    assert status["published"]["version"] == 1
    assert status["published"]["channel"] == "stable"
    assert status["published"]["digest"].startswith("sha256:")
    assert status["restarts"] == 0
    assert status["progress"]["step"] == status["progress"]["totalSteps"]
    assert [entry["name"] for entry in status["stages"]] == ["train", "compress-int8", "compress-pruned", "evaluate", "publish"]
    for kind in ("Trained", "Compressed", "Evaluated", "Published", "Succeeded"):
        assert kube.holds(digits, kind), kind


def test_only_the_evaluator_sees_the_held_out_data(space: kube.Namespace, digits: kube.Object) -> None:
    pods = space.list("pods", selector="modelmill.io/trainingjob=digits")
    seeing = {pod["metadata"]["labels"]["modelmill.io/role"] for pod in pods if "digits-held-out" in json.dumps(pod["spec"])}
    assert seeing == {"evaluate"}
    assert {"worker", "compress", "publish"} <= {pod["metadata"]["labels"]["modelmill.io/role"] for pod in pods}


def test_get_and_explain_tell_the_story(space: kube.Namespace, digits: kube.Object) -> None:
    header, line = space("get", "tj", "digits").splitlines()
    shown = dict(zip(header.split(), line.split(), strict=True))
    steps = str(digits["status"]["progress"]["totalSteps"])
    assert {name: shown[name] for name in ("NAME", "STAGE", "STEP", "OF", "RESTARTS", "VERSION")} == {
        "NAME": "digits",
        "STAGE": "Succeeded",
        "STEP": steps,
        "OF": steps,
        "RESTARTS": "0",
        "VERSION": "1",
    }
    assert float(shown["LOSS"]) < 1
    assert "digits" in space("get", "modelmill")  # the category lists both kinds
    explained = kube.kubectl("explain", "trainingjob.spec.checkpoint.everySteps")
    assert "at most this much work is lost" in explained
    assert "What is done to the trained weights" in " ".join(
        kube.kubectl("explain", "tj.spec.compression.variants.steps").split()
    )


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_the_service_answers_with_the_right_digits(space: kube.Namespace, service: kube.Object, protocol: str) -> None:
    assert _accuracy(space, service["status"]["url"], protocol) >= 0.95


def test_it_serves_the_smallest_variant_that_is_good_enough(digits: kube.Object, service: kube.Object) -> None:
    passed = {entry["name"]: entry["bytes"] for entry in digits["status"]["variants"] if entry["passed"]}
    # int8 and pruned are of one size here: which of the two is measured to be faster is chance.
    assert passed[service["status"]["variant"]] == min(passed.values())
    assert service["status"]["version"] == digits["status"]["published"]["version"]


def test_deleting_the_job_keeps_its_version_serving(space: kube.Namespace, service: kube.Object) -> None:
    space("delete", "trainingjob", "digits", "--timeout=60s")
    servers = {pod["metadata"]["uid"] for pod in space.list("pods", selector="modelmill.io/role=server")}
    # A server that starts anew must find the version too: nothing but the registry is left of the job.
    space("delete", "pod", "-l", "modelmill.io/role=server", "--wait=true", timeout=180)
    space.until("modelservice", "digits", lambda found: kube.holds(found, "Ready") and _renewed(space, servers), seconds=180)
    kube.routed(space, service["status"]["url"])
    assert _accuracy(space, service["status"]["url"], "v1") >= 0.95
    assert not space.list("pods", selector="modelmill.io/trainingjob=digits")


def _renewed(space: kube.Namespace, before: set[str]) -> bool:
    pods = space.list("pods", selector="modelmill.io/role=server")
    return any(pod["metadata"]["uid"] not in before and kube.holds(pod, "Ready") for pod in pods)


def _accuracy(space: kube.Namespace, url: str, protocol: str) -> float:
    """The share of images that the service, asked by a pod, tells right."""
    base = url.partition("/v1/")[0]
    path = {"v1": "/v1/models/digits:predict", "v2": "/v2/models/digits/infer"}[protocol]
    answer = json.loads(space("exec", "client", "--", "python", "/files/ask.py", base + path, f"/files/{protocol}.json"))
    scores = answer["predictions"] if protocol == "v1" else numpy.reshape(answer["outputs"][0]["data"], (-1, 10))
    labels = _held_out()["y"][:ASKED]
    assert len(scores) == len(labels)
    return float((numpy.argmax(scores, axis=1) == labels).mean())
