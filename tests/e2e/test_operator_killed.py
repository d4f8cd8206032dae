"""The operator is killed with signal 9 at random moments of a job: nothing is lost, nothing is made twice."""

import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from examples.demo import install, kube
from tests.cluster import foreign, node
from tests.e2e import registry, resources

pytestmark = pytest.mark.alone
SEED = 20
LONGEST_PAUSE, MOST_KILLS = 6.0, 6
"""Seconds between a takeover and the next kill; more kills would only test the kubelet's back-off."""
SYSTEM = kube.Namespace(install.NAMESPACE)
LEASE = "modelmill-operator"


def test_an_operator_that_is_killed_again_and_again_makes_everything_once(space: kube.Namespace, tmp_path: Path) -> None:
    resources.data(space)
    registry.reader(space)
    job = resources.training_job(
        "digits",
        recipe={"configMap": "paced-recipe", "entrypoint": "paced:Paced"},
        hyperparameters=resources.hyperparameters(pause="0.03"),
    )
    with _watched(space, tmp_path) as made:
        space.apply(job)
        kills = _kill_until_over(space, "digits", random.Random(SEED))
        finished = resources.finished(space, "digits", seconds=400)
        time.sleep(3)  # for a second object that a confused operator may still make
        children = made()
    assert kills >= 2
    stages = ["compress-int8", "compress-pruned", "evaluate", "publish"]
    assert children == {
        **{f"Pod digits-worker-{index}": 1 for index in range(2)},
        **{f"Job digits-{stage}": 1 for stage in stages},
        **{f"Pod of digits-{stage}": 1 for stage in stages},
    }
    status = finished["status"]
    assert (status["restarts"], status["attempt"]) == (0, 0)
    assert status["published"]["version"] == 1
    variants = ("dense", "int8", "pruned")
    assert sorted(registry.digests(space, model="digits")) == [f"1/{name}.safetensors" for name in variants]


def _kill_until_over(space: kube.Namespace, name: str, chance: random.Random) -> int:
    """Kills whoever leads, waits for the next leader and a while longer, and so on; how often."""
    for kills in range(MOST_KILLS):
        time.sleep(chance.uniform(0.5, LONGEST_PAUSE))
        if resources.over(space.get("trainingjob", name)):
            return kills
        _kill(_leader())
    return MOST_KILLS


def _leader() -> str:
    """The pod that has led for a moment at least: its holder renewed the Lease."""
    end, seen = time.monotonic() + 120, {_renewed()}
    while time.monotonic() < end:
        holder, renewed = _renewed()
        if holder and (holder, renewed) not in seen and any(holder == one for one, _ in seen):
            return holder.rpartition("_")[0]
        seen.add((holder, renewed))
        time.sleep(0.3)
    raise TimeoutError("no operator leads")


def _renewed() -> tuple[str, str]:
    spec = SYSTEM.get("lease", LEASE)["spec"]
    return spec.get("holderIdentity") or "", spec.get("renewTime") or ""


def _kill(pod: str) -> None:
    if foreign.kind_of_cluster() != "built-in":
        SYSTEM("delete", "pod", pod, "--grace-period=0", "--force")
        return
    # Deleting by force still ends with SIGTERM first; the container's runtime is asked for the real thing.
    container = SYSTEM.get("pod", pod)["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    subprocess.run(node.ctr("task", "kill", "--signal", "SIGKILL", container), check=True, capture_output=True)


@contextmanager
def _watched(space: kube.Namespace, folder: Path) -> Iterator[Callable[[], dict[str, int]]]:
    """Watches from before the first object on; yields the count, by name, of all that were ever there."""
    logs = {kind: folder / f"{kind}.txt" for kind in ("pods", "jobs")}
    watches = [_watch(space, kind, log) for kind, log in logs.items()]
    try:
        yield lambda: _count("".join(log.read_text() for log in logs.values()))
    finally:
        for watch in watches:
            watch.terminate()
            watch.wait()


def _watch(space: kube.Namespace, kind: str, log: Path) -> "subprocess.Popen[bytes]":
    # A pod of a Job has a random name: it goes by its Job's.
    job = r"{.object.metadata.labels.batch\.kubernetes\.io/job-name}" if kind == "pods" else ""
    row = "{.object.kind} {.object.metadata.name} {.object.metadata.uid} " + job + r'{"\n"}'
    command = ["kubectl", "-n", space.name, "get", kind, "--watch", "--output-watch-events", "-o", f"jsonpath={row}"]
    with log.open("wb") as file:
        return subprocess.Popen(command, stdout=file)


def _count(rows: str) -> dict[str, int]:
    uids: dict[str, set[str]] = {}
    for kind, name, uid, *job in map(str.split, rows.splitlines()):
        if name != "reader":
            uids.setdefault(f"{kind} of {job[0]}" if job else f"{kind} {name}", set()).add(uid)
    return {name: len(found) for name, found in uids.items()}
