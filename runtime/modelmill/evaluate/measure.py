"""Measures one set of weights on the held-out data: metrics, loss and latency, in this process.

What is measured is what will be served: the loaded module made faster as a service makes it.

The recipe reads the data and computes the loss. A version that came as an exported program has none: then the program
is the model, and the data are read by the recipe of the version that it is compared with.
"""

from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from modelmill.compress.apply import load_variant
from modelmill.evaluate.latency import measure_latency
from modelmill.evaluate.metrics import Tally
from modelmill.evaluate.task import Measured, Task
from modelmill.recipe import Recipe
from modelmill.recipe.load import load_recipe, module_of
from modelmill.serve.optimize.apply import optimize

BATCH_ROWS = 256


def measure(task: Task) -> Measured:
    recipe = load_recipe(task.recipe, task.entrypoint, task.hyperparameters)
    data = recipe.dataset(task.data, training=False)
    module = optimize(load_variant(_build(task, recipe), Path(task.weights)), example=(_rows(data, 2),)).module
    tally = Tally(task.metrics)
    with torch.inference_mode():
        for inputs, targets in DataLoader(data, batch_size=BATCH_ROWS):
            outputs = module(inputs)
            tally.add(outputs, targets, loss=float(recipe.loss(outputs, targets)))
    figures = tally.figures()
    return Measured(
        metrics=figures.values,
        rows=figures.rows,
        latency=measure_latency(module, _rows(data, 1)),
        unmeasured=figures.unmeasured,
    )


def _build(task: Task, recipe: Recipe) -> nn.Module:
    if task.program is None:
        return module_of(recipe, task.steps)
    from modelmill.artifact import program

    return program.build_module(program.load(Path(task.program)))


def _rows(data: "Dataset[tuple[torch.Tensor, torch.Tensor]]", count: int) -> torch.Tensor:
    inputs: torch.Tensor = next(iter(DataLoader(data, batch_size=count)))[0]
    return inputs
