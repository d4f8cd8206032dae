"""What users and machines do wrong in training: each ends in a condition with a reason and words that say what to do.

All jobs are applied at once and looked at one by one; each trains in one pod, and none may start again.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.demo import kube
from tests.cluster import foreign
from tests.e2e import registry, resources

BROKEN = "import a_package_that_nobody_installed\n"
SMALL_DISK = 384 << 10


def job(name: str, **changes: Any) -> kube.Object:
    made = resources.training_job(
        name,
        **{
            "model": {"name": name},
            "recipe": {"configMap": "paced-recipe", "entrypoint": "paced:Paced"},
            "strategy": None,
            "compression": None,
            "evaluation": None,
            "recovery": {"maxRestarts": 0},
            "hyperparameters": resources.hyperparameters(maxSteps=10),
            **changes,
        },
    )
    if not made["spec"].get("evaluation"):
        made["spec"].get("data", {}).pop("test", None)
    return made


def small_memory() -> kube.Object:
    made = job("hungry", hyperparameters=resources.hyperparameters(maxSteps=10, hog=3000))
    made["spec"]["pod"]["resources"] = {"requests": {"memory": "400Mi"}, "limits": {"memory": "700Mi"}}
    return made


def script(name: str, program: str) -> kube.Object:
    return job(name, script=["-c", program], recipe=None, data=None, hyperparameters=None, registry=None)


# What it is called, the job, and the reason and the words of its Failed condition.
FATAL: dict[str, tuple[kube.Object, str, tuple[str, ...]]] = {
    "an import error": (
        job("import", recipe={"configMap": "broken-recipe", "entrypoint": "recipe:Digits"}),
        "ImportError",
        ("a_package_that_nobody_installed", "Correct the recipe, or add what it needs to the image"),
    ),
    "a class that is not there": (
        job("class", recipe={"configMap": "paced-recipe", "entrypoint": "paced:Missing"}),
        "RecipeError",
        ("Missing",),
    ),
    "a file that is not there": (
        job("file", data={"train": {"uri": "pvc://models/nowhere/train.npz"}}),
        "DataNotFound",
        ("data.train: there is no data at", "nowhere/train.npz"),
    ),
}
RETRIED: dict[str, tuple[kube.Object, tuple[str, ...]]] = {
    "too little memory": (small_memory(), ("OOMKilled", "out of memory", "limits.memory")),
    "a script that crashes": (
        script("crash", "print('the last words'); raise SystemExit(3)"),
        ("RankExited", "exited with code 3", "the last words"),
    ),
}
STUCK: dict[str, tuple[kube.Object, tuple[str, ...], tuple[str, ...]]] = {
    "an image that is not there": (
        job("image", image="localhost:5000/nobody/pushed-this:1"),
        ("ErrImagePull", "ImagePullBackOff"),
        ("image-worker-0", "nobody/pushed-this:1"),
    ),
    "a ConfigMap that is not there": (
        job("config-map", data={"train": {"uri": "configmap://nowhere/train.npz"}}),
        ("ContainersNotStarted",),
        ("ConfigMap nowhere",),
    ),
}


@pytest.fixture(scope="module", autouse=True)
def jobs(space: kube.Namespace) -> None:
    resources.data(space)
    space("create", "configmap", "broken-recipe", f"--from-literal=recipe.py={BROKEN}")
    cases: list[kube.Object] = [case[0] for table in (STUCK, FATAL, RETRIED) for case in table.values()]
    space.apply(*cases)


@pytest.mark.parametrize("case", FATAL)
def test_a_mistake_of_the_user_is_fatal_and_not_tried_again(space: kube.Namespace, case: str) -> None:
    wanted, reason, words = FATAL[case]
    found = resources.failed(space, wanted["metadata"]["name"])
    assert found["reason"] == reason, found
    for word in words:
        assert word in found["message"]
    over = space.get("trainingjob", wanted["metadata"]["name"])
    assert over["status"]["restarts"] == 0
    assert not kube.holds(over, "WorkersReady")


@pytest.mark.parametrize("case", RETRIED)
def test_what_may_go_away_is_tried_again_up_to_the_limit(space: kube.Namespace, case: str) -> None:
    wanted, words = RETRIED[case]
    found = resources.failed(space, wanted["metadata"]["name"])
    assert found["reason"] == "TooManyRestarts"
    for word in ("spec.recovery.maxRestarts", *words):
        assert word in found["message"]


@pytest.mark.parametrize("case", STUCK)
def test_pods_that_cannot_start_say_why_and_wait(space: kube.Namespace, case: str) -> None:
    wanted, reasons, words = STUCK[case]

    def told(found: kube.Object) -> bool:
        return (kube.condition(found, "WorkersReady") or {}).get("reason") in reasons

    waiting = space.until("trainingjob", wanted["metadata"]["name"], told, seconds=180)
    message = (kube.condition(waiting, "WorkersReady") or {})["message"]
    for word in words:
        assert word in message
    assert not resources.over(waiting)


@pytest.fixture
def small_disk(space: kube.Namespace, tmp_path: Path) -> Iterator[str]:
    """A claim on a volume that is full soon."""
    if foreign.kind_of_cluster() != "built-in" or os.geteuid() != 0:
        pytest.skip("the node must be this machine, to mount a small file system on it")
    name = f"small-{space.name}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK},mode=0777", name, tmp_path], check=True)
    try:
        capacity = {"storage": "1Mi"}
        spec = {"accessModes": ["ReadWriteMany"], "storageClassName": name}
        source = {"hostPath": {"path": str(tmp_path), "type": "Directory"}}
        volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}}
        claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "small"}}
        space.apply(
            {**volume, "spec": {**spec, **source, "capacity": capacity}},
            {**claim, "spec": {**spec, "resources": {"requests": capacity}}},
        )
        yield "small"
        kube.kubectl("delete", "pv", name, "--wait=false")
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


def test_a_full_disk_is_named_with_the_file_that_found_no_room(space: kube.Namespace, small_disk: str) -> None:
    space.apply(job("full", registry={"uri": f"pvc://{small_disk}/registry"}, checkpoint={"everySteps": 5}))
    found = resources.failed(space, "full")
    assert found["reason"] == "TooManyRestarts"
    assert "DiskFull" in found["message"]
    assert "/checkpoints/5/" in found["message"]


def test_a_worse_model_is_refused_with_numbers_and_the_old_one_stays(space: kube.Namespace) -> None:
    gates = [{"metric": "accuracy", "noWorseThan": "stable", "tolerance": "0.005"}]
    evaluation = {"metrics": ["accuracy"], "gates": gates}
    for name, steps in (("good", 120), ("worse", 2)):
        learning = resources.hyperparameters(maxSteps=steps)
        space.apply(job(name, model={"name": "gated"}, evaluation=evaluation, hyperparameters=learning))
        space.until("trainingjob", name, resources.over, seconds=300)
    good, worse = (space.get("trainingjob", name)["status"] for name in ("good", "worse"))
    assert good["published"]["version"] == 1
    old, new = (float(status["variants"][0]["metrics"]["accuracy"]) for status in (good, worse))
    assert new < old - 0.005
    message = f"dense: accuracy {new:.6g} is worse than {old:.6g} of version 1 (dense) in channel 'stable' by more than 0.005"
    for kind in ("Failed", "Evaluated"):
        found = kube.condition({"status": worse}, kind) or {}
        assert (found["reason"], message in found["message"]) == ("GateRefused", True)
    assert worse["variants"][0]["passed"] is False
    assert "published" not in worse
    registry.reader(space)
    assert list(registry.digests(space, model="gated")) == ["1/dense.safetensors"]


def test_an_invalid_resource_is_refused_with_a_sentence(space: kube.Namespace) -> None:
    both = job("both", script=["train.py"])
    with pytest.raises(kube.KubeError, match=r"spec needs exactly one of recipe \(a Recipe class\) and script"):
        space.apply(both)
