"""The prepare stage: everything that can be found wrong before a single GPU is held.

For a recipe: it imports, builds a model that keeps its signature, opens its data, and can do one loss. For a script:
the file is there. For both: the registry can be written.
"""

import math
import uuid
from pathlib import Path

import torch

from modelmill import storage, workspace
from modelmill.contract.jobfile import JobFile
from modelmill.contract.result import StageResult
from modelmill.failures import Fault
from modelmill.recipe.base import Recipe, RecipeError
from modelmill.recipe.check import ROWS, check_signature, check_tensor
from modelmill.recipe.load import load_recipe
from modelmill.train import data
from modelmill.train.cursor import Share, derive
from modelmill.train.hyperparameters import Hyperparameters


def run(job: JobFile) -> StageResult:
    details: dict[str, object] = {}
    if job.entrypoint is not None:
        details = _check_recipe(job, entrypoint=job.entrypoint)
    elif job.script:
        _check_script(job)
    else:
        raise RecipeError("recipe: set an entrypoint, or a script")
    _check_registry(job)
    told = ", ".join(f"{name} {value}" for name, value in details.items())
    return StageResult(stage="prepare", ok=True, message=f"ready to train: {told}" if told else "ready to train", details=details)


def _check_recipe(job: JobFile, *, entrypoint: str) -> dict[str, object]:
    recipe = load_recipe(job.recipe_path, entrypoint, job.hyperparameters)
    hyperparameters = Hyperparameters.of(job.hyperparameters)
    try:
        return _check_parts(job, recipe, hyperparameters)
    except (Fault, OSError):
        raise
    except Exception as error:
        # Nothing here depends on other pods or on chance: it would fail in the same way again.
        raise RecipeError(f"{entrypoint}: {type(error).__name__}: {error}") from error


def _check_parts(job: JobFile, recipe: Recipe, hyperparameters: Hyperparameters) -> dict[str, object]:
    data.seed_generators(derive(job.seed, "model"))
    module = recipe.model()
    recipe.initialize(module)
    signature = recipe.signature()
    check_signature(module, signature)
    training, validation = data.open_parts(recipe, job.data, seed=job.seed)
    schedule = hyperparameters.schedule(len(training))
    recipe.scheduler(recipe.optimizer(module.parameters()), total_steps=schedule.total_steps)
    share = Share(step=0, epoch=0, samples=tuple(range(min(ROWS, len(training)))), weight=1.0)
    inputs, targets = next(data.training_batches(training, [share], seed=job.seed, workers=0, pin=False))
    check_tensor(signature.inputs[0], inputs, what="training input", rows=len(share.samples))
    module.eval()
    with torch.no_grad():
        loss = float(recipe.loss(module(inputs), targets))
    if not math.isfinite(loss):
        raise RecipeError(f"loss(): {loss} on the first {len(share.samples)} rows; check the data for NaN")
    found: dict[str, object] = {
        "rows": len(training),
        "steps": schedule.total_steps,
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
    }
    return {**found, "validationRows": len(validation)} if validation else found


def _check_script(job: JobFile) -> None:
    program = job.script[0]
    # `-m package` and other options of python are taken on trust.
    if not program.startswith("-") and not (Path(job.recipe_path or ".") / program).is_file():
        raise RecipeError(f"script: there is no file {program} in {job.recipe_path or 'the image'}; check spec.script")
    for field, uri in (("data.train", job.data.train), ("data.validation", job.data.validation)):
        path = storage.local_path(uri) if uri else None
        if path is not None and not path.exists():
            raise data.DataNotFound(f"{field}: there is no data at {uri}")


def _check_registry(job: JobFile) -> None:
    probe = storage.join(workspace.workspace(job), f"probe-{uuid.uuid4().hex}")
    storage.write_bytes(probe, b"can this be written?")
    storage.remove(probe)
