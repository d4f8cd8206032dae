"""What is measured of a variant is the module that a service would run. Not: the metrics themselves (`test_metrics`)."""

from pathlib import Path

from modelmill.compress.weights import Plain, write_weights
from modelmill.evaluate.measure import measure
from modelmill.evaluate.task import Task
from modelmill.recipe.load import load_recipe

SLOW_MILLIS = 200
RECIPE = f"""
import time

import torch
from torch import nn

from modelmill import Recipe


class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        if isinstance(self.norm, nn.BatchNorm2d):
            time.sleep({SLOW_MILLIS / 1000})
        return self.norm(self.conv(x)).mean((2, 3))


class Images(Recipe):
    def model(self):
        return Slow()

    def dataset(self, uri, *, training):
        generator = torch.Generator().manual_seed(0)
        return [(torch.randn(3, 6, 6, generator=generator), place % 4) for place in range(8)]
"""


def test_latency_is_of_the_module_as_a_service_runs_it(tmp_path: Path) -> None:
    (tmp_path / "slow_images.py").write_text(RECIPE)
    task = Task(
        weights=str(tmp_path / "weights"), data="unused://", metrics=("accuracy",), recipe=str(tmp_path),
        entrypoint="slow_images:Images",
    )  # fmt: skip
    module = load_recipe(str(tmp_path), task.entrypoint, {}).model()
    write_weights(Path(task.weights), {name: Plain(data=tensor) for name, tensor in module.state_dict().items()})
    measured = measure(task)
    assert measured.rows == 8
    # The norm, whose forward alone is slow, is folded.
    assert measured.latency.median < SLOW_MILLIS / 4
