"""What a rank runs for a recipe: `python -m modelmill.train.main`, started by the launcher in torchrun's environment.

Reads the job file, trains (or goes on from the newest checkpoint) and leaves, from rank 0, `dense.safetensors` and
`training.json` in the job's workspace. A failure is left for the launcher as JSON, and says in the exit code whether
trying again can help.
"""

import json
import os
import signal
import sys
import traceback
from pathlib import Path

import torch
from safetensors.torch import save as save_tensors

from modelmill import failures, storage, workspace
from modelmill.contract import codec, names
from modelmill.contract.jobfile import JobFile
from modelmill.contract.report import Failure
from modelmill.recipe.base import Recipe, RecipeError
from modelmill.recipe.load import load_recipe
from modelmill.train import checkpoint, data
from modelmill.train.cursor import derive
from modelmill.train.hyperparameters import Hyperparameters
from modelmill.train.loop import Checkpoints, NaNLoss, Run
from modelmill.train.progress import ProgressWriter
from modelmill.train.strategies.data_parallel import DataParallel

EXIT_FAILED = 1


def train(job: JobFile) -> None:
    if job.entrypoint is None:
        raise RecipeError("recipe.entrypoint: missing; name the recipe as module:Class")
    recipe = load_recipe(job.recipe_path, job.entrypoint, job.hyperparameters)
    strategy = DataParallel.join(timeout_seconds=job.stall_timeout_seconds)
    run = _prepare(job, recipe=recipe, strategy=strategy)
    first_step = run.resume()
    # From here on a stop waits for the end of a step; earlier it ends the process at once, as there is nothing to save.
    signal.signal(signal.SIGTERM, _stop.on_signal)
    run.train(first_step)
    if strategy.rank == 0:
        _finish(job, run)
    strategy.barrier()
    strategy.leave()


def _prepare(job: JobFile, *, recipe: Recipe, strategy: DataParallel) -> Run:
    hyperparameters = Hyperparameters.of(job.hyperparameters)
    training, validation = data.open_parts(recipe, job.data, seed=job.seed)
    schedule = hyperparameters.schedule(len(training))
    if strategy.device.type == "cpu":
        # Resuming is exact to the bit on CPUs. Filling fresh memory would only hide reads of memory never written.
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # set at run time
    data.seed_generators(derive(job.seed, "model"))
    module = recipe.model().to(strategy.device)
    optimizer = recipe.optimizer(parameter for parameter in module.parameters() if parameter.requires_grad)
    return Run(
        recipe=recipe,
        module=module,
        optimizer=optimizer,
        scheduler=recipe.scheduler(optimizer, total_steps=schedule.total_steps),
        strategy=strategy,
        hyperparameters=hyperparameters,
        schedule=schedule,
        seed=job.seed,
        training=training,
        validation=validation,
        checkpoints=Checkpoints(
            folder=workspace.checkpoints_uri(job), every_steps=job.checkpoint.every_steps, keep=job.checkpoint.keep
        ),
        progress=ProgressWriter(total_steps=schedule.total_steps, batch_size=schedule.batch_size, talks=strategy.rank == 0),
        wants_stop=_stop,
    )


def _finish(job: JobFile, run: Run) -> None:
    """Leaves the weights in float32 for the compress stage, and what training has to say about itself."""
    tensors = checkpoint.plain_tensors(run.module)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise NaNLoss(f"the last step left values that are not finite in {name}: lower hyperparameters.lr")
    dense = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    storage.write_bytes(workspace.dense_uri(job), save_tensors(dense))
    losses = run.history["loss"]
    story = {
        "steps": run.schedule.total_steps,
        "epochs": run.schedule.total_steps / run.schedule.steps_per_epoch,
        "rows": len(run.training),
        "batchSize": run.schedule.batch_size,
        "world": run.strategy.world,
        "parameters": sum(parameter.numel() for parameter in run.module.parameters()),
        "loss": losses[-1][1] if losses else None,
        "history": run.history,
    }
    storage.write_bytes(workspace.training_uri(job), json.dumps(story).encode())


class _Stop:
    """Remembers that the launcher asked to stop."""

    def __init__(self) -> None:
        self._asked = False

    def on_signal(self, number: int, frame: object) -> None:
        self._asked = True

    def __call__(self) -> bool:
        return self._asked


_stop = _Stop()


def _tell(failure: Failure) -> None:
    path = os.environ.get(names.ENV_ERROR_FILE)
    if path:
        beside = Path(f"{path}.new")
        beside.write_text(codec.dumps(failure))
        beside.rename(path)


def main() -> None:
    try:
        train(codec.loads(JobFile, os.environ.get(names.ENV_JOB, "")))
    except Exception as error:
        traceback.print_exc()
        failure = failures.describe(error)
        _tell(failure)
        sys.stdout.flush()
        sys.stderr.flush()
        # Not sys.exit: the process group's destructors may wait for peers that are gone.
        os._exit(names.EXIT_FATAL if failure.fatal else EXIT_FAILED)


if __name__ == "__main__":
    main()
