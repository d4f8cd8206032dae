"""The training loop: steps, validation after each epoch, checkpoints between steps.

A step's loss and its ranks' wish to stop travel in one small all-reduce and are read one step later, so a GPU never
waits for the host; before a checkpoint, a validation and the end everything outstanding is read first.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from modelmill.failures import Fault
from modelmill.recipe.base import Recipe
from modelmill.train import checkpoint, data
from modelmill.train.checkpoint import Trainee
from modelmill.train.cursor import Share, derive, shares
from modelmill.train.data import Batch, Part
from modelmill.train.hyperparameters import Hyperparameters, Schedule
from modelmill.train.progress import ProgressWriter
from modelmill.train.strategies.data_parallel import DataParallel

HISTORY_POINTS = 1000


class NaNLoss(Fault):
    reason = "NaNLoss"
    fatal = True


class Stopped(Fault):
    """Somebody asked to stop; the work done so far is in a checkpoint."""

    reason = "Stopped"
    fatal = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    folder: str
    every_steps: int
    keep: int


@dataclass(kw_only=True)
class Run:
    """One rank's training, from wherever it resumes to the end."""

    recipe: Recipe
    module: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler | None
    strategy: DataParallel
    hyperparameters: Hyperparameters
    schedule: Schedule
    seed: int
    training: Part
    validation: Part | None
    checkpoints: Checkpoints
    progress: ProgressWriter
    wants_stop: Callable[[], bool]
    history: dict[str, Any] = field(default_factory=lambda: {"loss": [], "validation": [], "resumed": []})

    def trainee(self) -> Trainee:
        return Trainee(model=self.module, optimizer=self.optimizer, scheduler=self.scheduler)

    def resume(self) -> int:
        """The step to go on from: that of the newest usable checkpoint, or 0."""
        found = checkpoint.newest(self.checkpoints.folder) if self.strategy.rank == 0 else None
        step = self.strategy.agree(found or 0)
        if step == 0:
            self.recipe.initialize(self.module)
        else:
            self.history = checkpoint.load(self.trainee(), folder=self.checkpoints.folder, step=step)
            self.history["resumed"].append(step)
            self.progress.saved(step)
            self._say(f"resumed from the checkpoint of step {step}")
        return step

    def train(self, first_step: int) -> None:
        module = self.strategy.wrap(self.module)
        outstanding: tuple[Share, torch.Tensor] | None = None
        module.train()
        for share, batch in self._steps(first_step):
            values = self._step(module, share, batch)
            stop = self._read(outstanding)
            outstanding = (share, values)
            done = share.step + 1
            last, epoch_ends = done == self.schedule.total_steps, done % self.schedule.steps_per_epoch == 0
            if stop or last or epoch_ends or done % self.checkpoints.every_steps == 0:
                stop = self._read(outstanding) or stop
                outstanding = None
                if last or epoch_ends:
                    self._validate(module, share.epoch, done)
                if stop or last or done % self.checkpoints.every_steps == 0:
                    self._save(done)
            if stop and not last:
                raise Stopped(f"asked to stop; saved a checkpoint at step {done}, training goes on from there")

    def _steps(self, first_step: int) -> Iterator[tuple[Share, Batch]]:
        def order() -> Iterator[Share]:
            rank, world = self.strategy.rank, self.strategy.world
            return shares(self.schedule, seed=self.seed, first_step=first_step, rank=rank, world=world)

        workers, pin = self.hyperparameters.loader_workers, self.strategy.device.type == "cuda"
        # Twice the same order: the loader runs ahead of the loop.
        return zip(order(), data.training_batches(self.training, order(), seed=self.seed, workers=workers, pin=pin), strict=True)

    def _step(self, module: nn.Module, share: Share, batch: Batch) -> torch.Tensor:
        """One optimizer step; returns (mean loss of the global batch, how many ranks want to stop), not yet read."""
        device = self.strategy.device
        data.seed_generators(derive(self.seed, "step", share.step, self.strategy.rank))
        if device.type == "cuda":
            torch.cuda.manual_seed(torch.initial_seed())
        inputs, targets = (part.to(device, non_blocking=True) for part in batch)
        with self._precision():
            loss = self.recipe.loss(module(inputs), targets)
        self.optimizer.zero_grad(set_to_none=True)
        (loss * self.strategy.scale(share.weight)).backward()
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        wish = torch.tensor(float(self.wants_stop()), device=device)
        return self.strategy.sum(torch.stack([loss.detach().float() * share.weight, wish]))

    def _read(self, outstanding: tuple[Share, torch.Tensor] | None) -> bool:
        """Notes a finished step; whether some rank wants to stop."""
        if outstanding is None:
            return False
        share, values = outstanding
        loss, wishes = values.tolist()
        done = share.step + 1
        if not math.isfinite(loss):
            raise NaNLoss(
                f"the loss is {loss} at step {done}: lower hyperparameters.lr, check the data for NaN, or try precision fp32"
            )
        if done % math.ceil(self.schedule.total_steps / HISTORY_POINTS) == 0 or done == self.schedule.total_steps:
            self.history["loss"].append([done, loss])
        self.progress.step(done, epoch=share.epoch, loss=loss)
        return bool(wishes > 0)

    def _validate(self, module: nn.Module, epoch: int, step: int) -> None:
        if self.validation is None:
            return
        strategy, total = self.strategy, torch.zeros(2, dtype=torch.float64, device=self.strategy.device)
        # The bare module: DDP's forward would talk to its peers, whose shares may have fewer batches.
        self.module.eval()
        batches = data.validation_batches(
            self.validation, seed=self.seed, batch_size=self.schedule.batch_size, rank=strategy.rank, world=strategy.world
        )
        with torch.no_grad(), self._precision():
            for batch in batches:
                inputs, targets = (part.to(strategy.device) for part in batch)
                rows = len(inputs)
                total += torch.stack([self.recipe.loss(self.module(inputs), targets).double() * rows, total.new_tensor(rows)])
        module.train()
        summed, rows = strategy.sum(total).tolist()
        self.history["validation"].append({"epoch": epoch, "step": step, "loss": summed / rows})
        self._say(f"epoch {epoch} ended: validation loss {summed / rows:.4f} on {rows:.0f} rows")

    def _save(self, step: int) -> None:
        if self.strategy.rank == 0:
            where = self.checkpoints
            checkpoint.save(self.trainee(), folder=where.folder, step=step, history=self.history, keep=where.keep)
        self.progress.saved(step)

    def _precision(self) -> AbstractContextManager[Any]:
        if self.hyperparameters.precision == "bf16":
            return torch.autocast(self.strategy.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def _say(self, text: str) -> None:
        if self.strategy.rank == 0:
            print(text, flush=True)
