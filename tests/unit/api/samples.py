"""The smallest valid resource of each kind, and how to change a copy of it."""

from __future__ import annotations

import copy
from typing import Any

TRAINING_JOB: dict[str, Any] = {
    "apiVersion": "modelmill.io/v1alpha1",
    "kind": "TrainingJob",
    "metadata": {"name": "digits"},
    "spec": {
        "model": {"name": "digits"},
        "recipe": {"configMap": "digits-recipe", "entrypoint": "recipe:Digits"},
        "data": {"train": {"uri": "pvc://digits/train.npz"}},
    },
}
SCRIPT_JOB: dict[str, Any] = {
    "apiVersion": "modelmill.io/v1alpha1",
    "kind": "TrainingJob",
    "metadata": {"name": "script"},
    "spec": {"model": {"name": "plain"}, "script": ["/app/train.py"]},
}
MODEL_SERVICE: dict[str, Any] = {
    "apiVersion": "modelmill.io/v1alpha1",
    "kind": "ModelService",
    "metadata": {"name": "digits"},
    "spec": {"model": {"name": "digits", "channel": "stable"}},
}
ABSENT = object()


def changed(resource: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy with the values at dotted paths replaced, or removed where the value is ABSENT."""
    result = copy.deepcopy(resource)
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = result
        for key in parents:
            place = place.setdefault(key, {})
        if value is ABSENT:
            place.pop(last, None)
        else:
            place[last] = value
    return result
