"""The digits resources as dicts, with what a test changes about them."""

import copy
from pathlib import Path
from typing import Any

import yaml

from examples.demo import kube
from tests.e2e.conftest import EXAMPLES

DIGITS = EXAMPLES / "digits"


def training_job(name: str = "digits", **changes: Any) -> kube.Object:
    """examples/digits/trainingjob.yaml under another name, with top-level fields of its spec replaced (None removes)."""
    return _changed("trainingjob.yaml", name, changes)


def model_service(name: str = "digits", **changes: Any) -> kube.Object:
    return _changed("modelservice.yaml", name, changes)


def _changed(file: str, name: str, changes: dict[str, Any]) -> kube.Object:
    resource: kube.Object = copy.deepcopy(yaml.safe_load((DIGITS / file).read_text()))
    resource["metadata"]["name"] = name
    for field, value in changes.items():
        if value is None:
            resource["spec"].pop(field, None)
        else:
            resource["spec"][field] = value
    return resource


def hyperparameters(**changes: Any) -> dict[str, Any]:
    return {"optimizer": "AdamW", "lr": "0.003", "batchSize": 64, "epochs": 30, **changes}


def data(space: kube.Namespace) -> None:
    """The recipe, the same at a pace, the training and the held-out data, as ConfigMaps."""
    for name, file in (("digits-recipe", "recipe.py"), ("digits-train", "train.npz"), ("digits-held-out", "test.npz")):
        space("create", "configmap", name, f"--from-file={DIGITS / file}")
    files = (DIGITS / "recipe.py", Path(__file__).parent / "recipes" / "paced.py")
    space("create", "configmap", "paced-recipe", *(f"--from-file={file}" for file in files))


def over(job: kube.Object) -> bool:
    return kube.holds(job, "Succeeded") or kube.holds(job, "Failed")


def finished(space: kube.Namespace, name: str, *, seconds: float = 300) -> kube.Object:
    """The TrainingJob when it is over, which must be a success."""
    job = space.until("trainingjob", name, over, seconds=seconds)
    assert kube.holds(job, "Succeeded"), kube.condition(job, "Failed")
    return job


def failed(space: kube.Namespace, name: str, *, seconds: float = 180) -> kube.Object:
    """The Failed condition of a TrainingJob that must fail."""
    job = space.until("trainingjob", name, over, seconds=seconds)
    found = kube.condition(job, "Failed")
    assert found is not None, job["status"]
    return found
