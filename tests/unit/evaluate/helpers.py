"""A job on a small model in a registry on disk, ready for the stages that follow training."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from modelmill import workspace
from modelmill.contract.jobfile import Data, Gate, JobFile, Variant
from modelmill.contract.steps import Quantize, Step

DENSE, INT8 = Variant(name="dense"), Variant(name="int8", steps=(Step(quantize=Quantize()),))
RECIPE = """
import json
import os
import signal

import torch
from torch import nn

from modelmill import Recipe, Signature, Tensor


class Corners(nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.{layer} = nn.Linear(inputs, classes)

    def forward(self, x):
        return self.{layer}(x)


class Tiny(Recipe):
    def model(self):
        {trouble}
        return Corners(16, 3)

    def signature(self):
        return Signature(inputs=(Tensor(name="x", shape=(-1, 16)),), outputs=(Tensor(name="y", shape=(-1, 3)),))

    def dataset(self, uri, *, training):
        with open(uri.removeprefix("file://")) as file:
            rows = json.load(file)
        return [(torch.tensor(x), torch.tensor(y)) for x, y in rows]
"""


def write_recipe(folder: Path, *, layer: str = "fc", trouble: str = "pass") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.py").write_text(RECIPE.replace("{layer}", layer).replace("{trouble}", trouble))
    return folder


def write_data(path: Path, *, rows: int = 30, seed: int = 0) -> str:
    """Points near three corners: class c has a large value at place c."""
    generator = torch.Generator().manual_seed(seed)
    classes = [index % 3 for index in range(rows)]
    points = torch.randn(rows, 16, generator=generator) * 0.1
    for row, place in enumerate(classes):
        points[row, place] += 1.0
    path.write_text(json.dumps([[point.tolist(), place] for point, place in zip(points, classes, strict=True)]))
    return f"file://{path}"


def weights(*, right: int = 3, layer: str = "fc") -> dict[str, torch.Tensor]:
    """A model that knows `right` of the three classes."""
    matrix = torch.zeros(3, 16)
    for place in range(right):
        matrix[place, place] = 4.0
    matrix[0] += 0.5 * (right < 3)
    return {f"{layer}.weight": matrix, f"{layer}.bias": torch.zeros(3)}


def job(root: Path, *, uid: str = "u1", trained: dict[str, torch.Tensor] | None = None, **changes: Any) -> JobFile:
    """An evaluate job whose training has just ended."""
    settings: dict[str, Any] = {
        "stage": "evaluate",
        "namespace": "team",
        "name": "tiny",
        "uid": uid,
        "model": "tiny",
        "registry": f"file://{root}/registry",
        "entrypoint": "recipe:Tiny",
        "variants": (DENSE,),
        "metrics": ("accuracy", "loss"),
    }
    made = JobFile(**{**settings, **changes})
    if made.recipe_path is None:
        made = JobFile(**{**settings, "recipe_path": str(write_recipe(root / "recipe")), **changes})
    if made.data.test is None:
        data = Data(test=write_data(root / "test.json"))
        made = JobFile(**{**settings, "recipe_path": made.recipe_path, "data": data, **changes})
    dense = Path(workspace.dense_uri(made).removeprefix("file://"))
    dense.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights() if trained is None else trained, dense)
    return made


def accuracy_gate(**bounds: Any) -> Gate:
    return Gate(metric="accuracy", **bounds)
