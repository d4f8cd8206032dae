"""GPUs, played by an extended resource that the real scheduler and kubelet count: one a pod, for all of a gang or for none."""

from collections.abc import Iterator

import pytest

from examples.demo import kube
from tests.cluster import builtin, foreign
from tests.e2e import resources

GPU = "nvidia.com/gpu"


@pytest.fixture(scope="module", autouse=True)
def cards() -> Iterator[None]:
    if foreign.kind_of_cluster() != "built-in":
        pytest.skip("the built-in cluster can play GPUs; on another one real pods may hold real ones")
    builtin.addons().set_gpus(0)
    yield
    builtin.addons().set_gpus(0)


def job(name: str) -> kube.Object:
    made = resources.training_job(
        name,
        model={"name": name},
        recipe={"configMap": "paced-recipe", "entrypoint": "paced:Paced"},
        compression=None,
        evaluation=None,
        scheduling={"gangTimeout": "4s"},
        hyperparameters=resources.hyperparameters(maxSteps=20),
    )
    made["spec"]["pod"]["resources"]["limits"][GPU] = 1
    del made["spec"]["data"]["test"]
    return made


def test_a_gang_gets_one_card_a_pod_all_or_none(space: kube.Namespace) -> None:
    resources.data(space)
    builtin.addons().set_gpus(1)
    space.apply(job("gang"))
    given_back = space.until("trainingjob", "gang", _gave_back, seconds=180)
    # One of the two found a card, and yet neither holds one now: another job could have it.
    condition = kube.condition(given_back, "WorkersReady")
    assert condition is not None
    assert (condition["status"], condition["reason"]) == ("False", "Unschedulable")
    assert f"Insufficient {GPU}" in condition["message"]
    assert "no room for all 2 workers, so none holds any" in condition["message"]
    space.until("trainingjob", "gang", lambda found: not _held(space, phases=("Pending", "Running")), seconds=60)

    builtin.addons().set_gpus(2)
    finished = resources.finished(space, "gang")
    # Found no room is not the job's fault.
    assert finished["status"]["restarts"] == 0
    assert finished["status"]["published"]["version"] == 1
    assert _held(space, phases=("Succeeded",)) == {"gang-worker-0": 1, "gang-worker-1": 1}
    # Faults are found by a stage that holds no card.
    assert finished["status"]["stages"][0]["name"] == "prepare"


def test_the_reason_of_the_scheduler_is_told_while_no_worker_finds_a_card(space: kube.Namespace) -> None:
    builtin.addons().set_gpus(0)
    space.apply(job("none"))

    def told(found: kube.Object) -> bool:
        condition = kube.condition(found, "WorkersReady") or {}
        return condition.get("reason") == "Unschedulable" and f"Insufficient {GPU}" in condition["message"]

    waiting = space.until("trainingjob", "none", told, seconds=180)
    assert not resources.over(waiting)
    space("delete", "trainingjob", "none", "--timeout=60s")


def _gave_back(found: kube.Object) -> bool:
    return int(found.get("status", {}).get("releases", 0)) >= 1 and kube.condition(found, "WorkersReady") is not None


def _held(space: kube.Namespace, *, phases: tuple[str, ...]) -> dict[str, int]:
    """Pods that were given cards, and how many each."""
    found = {}
    for pod in space.list("pods"):
        cards = int(pod["spec"]["containers"][0]["resources"].get("limits", {}).get(GPU, 0))
        if cards and pod["spec"].get("nodeName") and pod["status"]["phase"] in phases:
            found[pod["metadata"]["name"]] = cards
    return found
