"""A training pod is killed, rank 0's too, or the job is suspended: it goes on from its checkpoint as if nothing had been.

The unbroken run and the broken ones have the same seed; the weights they publish are compared bit for bit. The recipe
sleeps before each step, so that there is a middle to be killed in on a fast machine too, and says each step in the log.
"""

import re
import time

import pytest

from examples.demo import kube
from tests.e2e import registry, resources
from tests.e2e.conftest import Record

EVERY = 40
STEPS = 240
LIMIT_SECONDS = 60.0


def job(name: str, *, pause: str = "0.05") -> kube.Object:
    # Every job has a model of its own: what one publishes must not gate the other. No data to evaluate on: one stage less.
    made = resources.training_job(
        name,
        model={"name": name},
        recipe={"configMap": "paced-recipe", "entrypoint": "paced:Paced"},
        checkpoint={"everySteps": EVERY},
        compression=None,
        evaluation=None,
        hyperparameters=resources.hyperparameters(maxSteps=STEPS, pause=pause),
    )
    del made["spec"]["data"]["test"]
    return made


def step(job: kube.Object) -> int:
    return int(job.get("status", {}).get("progress", {}).get("step", 0))


@pytest.fixture(scope="module")
def prepared(space: kube.Namespace) -> None:
    """The data, and a job that nobody disturbs."""
    resources.data(space)
    space.apply(job("unbroken", pause="0"))
    registry.reader(space)


@pytest.mark.usefixtures("prepared")
@pytest.mark.parametrize("index", [1, 0])
def test_a_killed_pod_costs_at_most_one_checkpoint_interval_and_no_bit(space: kube.Namespace, must: Record, index: int) -> None:
    name = f"killed-{index}"
    survivor = f"{name}-worker-{1 - index}"
    space.apply(job(name))
    space.until("trainingjob", name, lambda found: step(found) > EVERY, seconds=180)
    space("delete", "pod", f"{name}-worker-{index}", "--grace-period=0", "--force")
    killed_at = time.monotonic()
    seconds = _next_step(space, survivor) - killed_at
    must("resume_seconds" if index == 0 else "resume_seconds_worker_1", round(seconds, 1), "s")
    finished = resources.finished(space, name)
    assert finished["status"]["restarts"] == 1
    assert seconds <= LIMIT_SECONDS
    # The survivor's launcher lived on, so its log has both attempts. Its last step may have been cut off in the middle.
    made = _attempts(space, survivor)[0].count("step\n")
    resumed = _resumed_at(space, name)
    assert resumed > 0
    assert made - 1 - resumed <= EVERY
    assert _published(space, name) == _unbroken(space)


@pytest.mark.usefixtures("prepared")
def test_a_job_that_was_suspended_goes_on_from_where_it_stopped(space: kube.Namespace) -> None:
    name = "suspended"
    space.apply(job(name))
    before = space.until("trainingjob", name, lambda found: step(found) > EVERY, seconds=180)
    _suspend(space, name, True)
    space.until("trainingjob", name, lambda found: kube.holds(found, "Suspended") and not _workers(space, name), seconds=90)
    _suspend(space, name, False)
    finished = resources.finished(space, name)
    assert finished["status"]["restarts"] == 0
    # The ranks were asked to stop, so they saved what they had.
    assert _resumed_at(space, name) >= step(before)
    assert _published(space, name) == _unbroken(space)


def _suspend(space: kube.Namespace, name: str, yes: bool) -> None:
    space("patch", "trainingjob", name, "--type=merge", "-p", f'{{"spec":{{"suspend":{str(yes).lower()}}}}}')


def _workers(space: kube.Namespace, name: str) -> list[kube.Object]:
    return space.list("pods", selector=f"modelmill.io/trainingjob={name},modelmill.io/role=worker")


def _attempts(space: kube.Namespace, pod: str) -> list[str]:
    """The log of a worker, cut at the starts of its ranks."""
    return re.split(r"launcher: attempt \d+: starting.*\n", space("logs", pod))[1:]


def _next_step(space: kube.Namespace, survivor: str) -> float:
    """When the survivor's ranks made a step in their second attempt."""
    end = time.monotonic() + LIMIT_SECONDS + 60
    while time.monotonic() < end:
        attempts = _attempts(space, survivor)
        if len(attempts) > 1 and "step\n" in attempts[1]:
            return time.monotonic()
        time.sleep(0.3)
    raise TimeoutError(f"no step after the kill; the log of {survivor}:\n{space('logs', survivor, '--tail=50')}")


def _resumed_at(space: kube.Namespace, name: str) -> int:
    found = re.findall(r"resumed from the checkpoint of step (\d+)", space("logs", f"{name}-worker-0"))
    assert len(found) == 1, found
    return int(found[0])


def _published(space: kube.Namespace, model: str) -> str:
    return registry.digests(space, model=model)["1/dense.safetensors"]


def _unbroken(space: kube.Namespace) -> str:
    resources.finished(space, "unbroken")
    return _published(space, "unbroken")
