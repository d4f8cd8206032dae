"""What clients and owners do wrong: clients get a status and a sentence, owners a condition that says what to do."""

import json
from typing import Any

import pytest

from examples.demo import install, kube
from tests.e2e import serving
from tests.e2e.serving import Version

TIMEOUT = 5
TOO_BRIGHT = 2000.0
"""The model hangs on such an image."""
LARGEST = 65536
ON_THE_WAY = ("Resolving", "Unschedulable", "ContainersNotStarted")
"""Reasons of a service that has not been looked up yet: the node may be busy."""
INFER = "/v2/models/digits/infer"
PREDICT = "/v1/models/digits:predict"

# Path, body, status, and what the answer's sentence names.
REFUSED: dict[str, tuple[str, Any, int, tuple[str, ...]]] = {
    "malformed": (PREDICT, '{"instances": [[', 400, ("not JSON",)),
    "no object": (INFER, [], 400, ("JSON object", "list")),
    "wrong shape": (INFER, serving.tensor(shape=[1, 64]), 400, ("image", "[1, 64]", "[-1, 1, 8, 8]")),
    "wrong shape of instances": (PREDICT, {"instances": [[0.0] * 64]}, 400, ("image", "[1, 64]", "[-1, 1, 8, 8]")),
    "wrong datatype": (INFER, serving.tensor(datatype="INT64"), 400, ("image", "INT64", "FP32")),
    "wrong values": (INFER, serving.tensor(data=["zero"] * 64), 400, ("image", "FP32", "strings")),
    "too few values": (INFER, serving.tensor(data=[0.0] * 63), 400, ("image", "63", "64")),
    "unknown tensor": (INFER, serving.tensor(name="picture"), 400, ("picture", "image")),
    "unknown model": ("/v1/models/letters:predict", serving.ROW, 404, ("letters", "digits")),
    "unknown version": ("/v2/models/digits/versions/99/infer", serving.tensor(), 404, ("99", "version 1")),
    "unknown path": ("/predict", serving.ROW, 404, ("/predict",)),
    "wrong method": (PREDICT, None, 405, ("GET", "POST")),
    "too large": (PREDICT, " " * (LARGEST + 1), 413, (str(LARGEST),)),
}


@pytest.fixture(scope="module")
def published(space: kube.Namespace) -> None:
    serving.pods(space)
    serving.publish(space, Version(seed=1, hyperparameters={"width": 16, "pause": 0.5}))


@pytest.fixture(scope="module")
def service(space: kube.Namespace, published: None) -> kube.Object:
    """One slow pod with little room for requests that wait."""
    limits: dict[str, Any] = {
        "timeout": f"{TIMEOUT}s",
        "maxRequestBytes": LARGEST,
        "queueLimit": 2,
        "batcher": {"maxBatchSize": 1},
    }
    space.apply(serving.service(**limits))
    return serving.served(space, 1)


def test_a_client_is_told_what_is_wrong_with_its_request(space: kube.Namespace, service: kube.Object) -> None:
    base = serving.base(service)
    requests = (serving.request(base + path, body) for path, body, _, _ in REFUSED.values())
    answers = dict(zip(REFUSED, serving.ask(space, *requests), strict=True))
    for name, (_, _, status, words) in REFUSED.items():
        assert answers[name].status == status, (name, answers[name])
        assert all(word in answers[name].error for word in words), (name, answers[name])


def test_too_many_requests_are_told_when_to_come_back(space: kube.Namespace, service: kube.Object) -> None:
    answers = serving.ask(space, *[serving.request(service["status"]["url"], serving.ROW)] * 12)
    refused = [answer for answer in answers if answer.status == 503]
    assert {answer.status for answer in answers} == {200, 503}
    assert len(refused) >= 4
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)


def test_a_pod_whose_model_hangs_starts_anew(space: kube.Namespace, service: kube.Object) -> None:
    hung = serving.request(serving.base(service) + INFER, serving.tensor(value=TOO_BRIGHT))
    (answer,) = serving.ask(space, hung)
    assert answer.status == 504, answer
    assert str(TIMEOUT) in answer.error
    pod = serving.server(space)
    name = pod["metadata"]["name"]
    restarted = space.until(
        "pod", name, lambda found: serving.restarts(found) and kube.holds(found, "Ready"), seconds=serving.SECONDS
    )
    assert serving.restarts(restarted) == 1
    space.until("modelservice", "digits", lambda found: kube.holds(found, "Ready"), seconds=60)
    kube.routed(space, service["status"]["url"])
    assert serving.answering_version(space, service) == 1
    assert "failed liveness probe" in space("get", "events", "--field-selector", f"involvedObject.name={name}")


@pytest.mark.usefixtures("published")
def test_what_is_not_there_is_told_and_served_once_it_is(space: kube.Namespace) -> None:
    asked = {
        "channel": serving.service("by-channel", model={"name": "digits", "channel": "canary"}),
        "version": serving.service("by-version", model={"name": "digits", "version": 2}),
        "variant": serving.service("by-variant", variant={"name": "int4"}),
        "model": serving.service("by-model", model={"name": "letters", "channel": "stable"}),
        "image": serving.service("by-image", image="localhost:5000/modelmill/runtime:none"),
    }
    space.apply(*asked.values())
    told = {what: _told(space, f"by-{what}") for what in asked}
    assert told["channel"]["reason"] == "ChannelEmpty", told
    assert "canary" in told["channel"]["message"]
    assert "publish one, or name a version" in told["channel"]["message"]
    assert told["version"]["reason"] == "VersionNotFound"
    assert "version 2" in told["version"]["message"]
    assert told["variant"]["reason"] == "VariantNotFound"
    assert all(word in told["variant"]["message"] for word in ("int4", "dense"))
    assert told["model"]["reason"] in ("ModelNotFound", "ChannelEmpty")
    assert "letters" in told["model"]["message"]
    assert told["image"]["reason"] in ("ErrImagePull", "ImagePullBackOff")
    assert "runtime:none" in told["image"]["message"]

    # A version by import: nobody tells the operator, so the registry is asked again after a while.
    fast = {"width": 16}
    serving.publish(space, Version(seed=2, channel="canary", hyperparameters=fast))
    serving.publish(space, Version(seed=3, model="letters", hyperparameters=fast))
    space("patch", "modelservice", "by-variant", "--type=merge", "-p", '{"spec":{"variant":{"name":"dense"}}}')
    space("patch", "modelservice", "by-image", "--type=merge", "-p", json.dumps({"spec": {"image": install.images()["runtime"]}}))
    for what, version in {"variant": 1, "image": 1, "channel": 2, "version": 2, "model": 1}.items():
        healed = serving.served(space, version, name=f"by-{what}")
        assert kube.holds(healed, "Resolved")
        assert "resolveFailures" not in healed["status"]


def _told(space: kube.Namespace, name: str) -> kube.Object:
    """The condition that tells why a service cannot serve."""

    def done(found: kube.Object) -> bool:
        resolved = kube.condition(found, "Resolved")
        return resolved is not None and resolved["status"] == "False" and resolved["reason"] not in ON_THE_WAY

    found = space.until("modelservice", name, done, seconds=120)
    told, ready = kube.condition(found, "Resolved"), kube.condition(found, "Ready")
    assert told is not None
    assert ready is not None
    assert (ready["status"], ready["reason"]) == ("False", told["reason"])
    return told
