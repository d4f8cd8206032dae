"""The hyperparameters that the trainer itself understands, checked before anything is built.

A recipe may read any others. Names are camelCase, as in the TrainingJob:
`batchSize` is the batch of one step over all ranks; training ends after `epochs` or `maxSteps`, whichever is first;
`precision` is fp32 or bf16 (autocast); `loaderWorkers` are processes that read data for each rank.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelmill.recipe.base import RecipeError

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How the samples are walked through."""

    samples: int
    batch_size: int
    total_steps: int

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.samples / self.batch_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hyperparameters:
    batch_size: int
    epochs: int | None
    max_steps: int | None
    precision: str
    loader_workers: int

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> "Hyperparameters":
        precision = raw.get("precision", "fp32")
        if precision not in PRECISIONS:
            raise RecipeError(f"hyperparameters.precision: {precision!r} is not one of {', '.join(PRECISIONS)}")
        epochs, max_steps = _whole(raw, "epochs", None), _whole(raw, "maxSteps", None)
        if epochs is None and max_steps is None:
            raise RecipeError("hyperparameters: set epochs or maxSteps, so that training ends")
        return cls(
            batch_size=_whole(raw, "batchSize", 32) or 32,
            epochs=epochs,
            max_steps=max_steps,
            precision=precision,
            loader_workers=_whole(raw, "loaderWorkers", 0, least=0) or 0,
        )

    def schedule(self, samples: int) -> Schedule:
        per_epoch = math.ceil(samples / self.batch_size)
        ends = [self.max_steps] if self.max_steps is not None else []
        ends += [self.epochs * per_epoch] if self.epochs is not None else []
        return Schedule(samples=samples, batch_size=self.batch_size, total_steps=min(ends))


def _whole(raw: Mapping[str, Any], name: str, default: int | None, *, least: int = 1) -> int | None:
    value = raw.get(name, default)
    # A TrainingJob holds whole numbers and text; a person may have quoted the number.
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
        raise RecipeError(f"hyperparameters.{name}: {value!r} must be a whole number, at least {least}")
    return value
