"""Versions come and go under steady load: good, broken and worse ones, and back again. No request notices.

The tests are the chapters of one story: they share a service and run in this order.
"""

from collections.abc import Iterator

import pytest

from examples.demo import kube
from tests.e2e import resources, serving
from tests.e2e.conftest import Record
from tests.e2e.serving import Version

TRAINED = 3
"""The version that the TrainingJob publishes."""
BROKEN = 4

# One byte among the weights is another than the one that was published.
BREAK = """
import pathlib, sys
path = pathlib.Path(sys.argv[1])
held = bytearray(path.read_bytes())
held[-8] ^= 255
path.write_bytes(held)
"""


@pytest.fixture(scope="module")
def first(space: kube.Namespace) -> kube.Object:
    """The service when version 1 serves."""
    serving.pods(space)
    resources.data(space)
    files = (resources.DIGITS / "recipe.py", serving.RECIPES / "served.py")
    space("create", "configmap", "served-recipe", *(f"--from-file={file}" for file in files))
    serving.publish(space, Version(seed=1))
    space.apply(serving.service())
    return serving.served(space, 1)


@pytest.fixture(scope="module")
def failures(must: Record) -> Iterator[dict[str, int]]:
    """Failed requests by chapter."""
    found: dict[str, int] = {}
    yield found
    must("rollout_failed_requests", sum(found.values()), "1")


def noted(traffic: serving.Traffic, failures: dict[str, int], chapter: str) -> None:
    failures[chapter] = traffic.failed
    assert traffic.failed == 0, traffic
    assert traffic.ok > 100


def training_job(name: str, **hyperparameters: object) -> kube.Object:
    """A job that publishes to the service's channel."""
    job = resources.training_job(
        name,
        model={"name": "digits"},
        recipe={"configMap": "served-recipe", "entrypoint": "served:Served"},
        strategy={"dataParallel": {"workers": 1}},
        compression=None,
        hyperparameters=resources.hyperparameters(**{"width": 64, "pause": "0.005", **hyperparameters}),
    )
    job["spec"]["evaluation"] = {"metrics": ["accuracy"], "gates": [{"metric": "accuracy", "noWorseThan": "stable"}]}
    return job


def test_an_imported_version_rolls_out_by_itself(space: kube.Namespace, first: kube.Object, failures: dict[str, int]) -> None:
    assert serving.answering_version(space, first) == 1
    with serving.traffic(space, first) as traffic:
        serving.publish(space, Version(seed=2))
        found = serving.served(space, 2, alone=True)
    noted(traffic, failures, "import")
    assert serving.answering_version(space, found) == 2


def test_pods_with_other_settings_replace_those_of_the_same_version(
    space: kube.Namespace, first: kube.Object, failures: dict[str, int]
) -> None:
    before = {pod["metadata"]["uid"] for pod in serving.servers(space)}
    with serving.traffic(space, first) as traffic:
        space.apply(serving.service(batcher={"maxBatchSize": 8}))

        def replaced(found: kube.Object) -> bool:
            now = {pod["metadata"]["uid"] for pod in serving.servers(space)}
            return serving.serves(found, 2) and bool(now) and not now & before

        space.until("modelservice", "digits", replaced, seconds=serving.SECONDS, every=1.0)
    noted(traffic, failures, "settings")


def test_a_trained_version_rolls_out_by_itself(space: kube.Namespace, first: kube.Object, failures: dict[str, int]) -> None:
    with serving.traffic(space, first) as traffic:
        space.apply(training_job("better", epochs=5))
        job = resources.finished(space, "better")
        assert job["status"]["published"]["version"] == TRAINED
        found = serving.served(space, TRAINED, alone=True)
    noted(traffic, failures, "trained")
    assert serving.answering_version(space, found) == TRAINED


def test_a_worse_model_is_refused_with_numbers_and_the_old_one_serves_on(
    space: kube.Namespace, first: kube.Object, failures: dict[str, int]
) -> None:
    with serving.traffic(space, first) as traffic:
        space.apply(training_job("worse", maxSteps=2))
        refused = resources.failed(space, "worse", seconds=serving.SECONDS)
    noted(traffic, failures, "worse")
    assert refused["reason"] == "GateRefused"
    job = space.get("trainingjob", "worse")
    (dense,) = job["status"]["variants"]
    accuracy = float(dense["metrics"]["accuracy"])
    assert f"accuracy {accuracy:.6g} is worse than" in refused["message"], refused
    assert f"of version {TRAINED}" in refused["message"], refused
    assert "published" not in job["status"]
    assert serving.answering_version(space, first) == TRAINED


def test_a_broken_version_never_takes_traffic(space: kube.Namespace, first: kube.Object, failures: dict[str, int]) -> None:
    with serving.traffic(space, first) as traffic:
        serving.publish(space, Version(seed=4, channel=None))
        weights = f"{serving.REGISTRY}/registry/{space.name}/digits/{BROKEN}/dense.safetensors"
        space("exec", "shop", "--", "python", "-c", BREAK, weights)
        serving.modelmill(space, "promote", "digits", str(BROKEN))

        def refused(found: kube.Object) -> bool:
            return bool(found["status"].get("lastFailure", {}).get("version") == BROKEN)

        found = space.until("modelservice", "digits", refused, seconds=serving.SECONDS, every=1.0)
        assert serving.answering_version(space, found) == TRAINED
    noted(traffic, failures, "broken")
    failure = found["status"]["lastFailure"]
    assert failure["reason"] == "DigestMismatch"
    assert "dense.safetensors" in failure["message"]
    told = kube.condition(found, "RolledOut")
    assert told is not None
    assert (told["status"], told["reason"]) == ("False", "DigestMismatch")
    assert found["status"]["version"] == TRAINED
    assert found["status"]["rollout"]["state"] == "Failed"
    assert kube.holds(found, "Ready")


def test_rollback_goes_back_to_what_served_before(space: kube.Namespace, first: kube.Object, failures: dict[str, int]) -> None:
    with serving.traffic(space, first) as traffic:
        serving.modelmill(space, "rollback", "digits")  # from the broken one
        serving.served(space, TRAINED, alone=True)
        assert "points to version 2" in serving.modelmill(space, "rollback", "digits")
        found = serving.served(space, 2, alone=True)
    noted(traffic, failures, "rollback")
    assert serving.answering_version(space, found) == 2
