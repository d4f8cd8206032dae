"""The job's training data for steps: opened when a step first asks, so that steps without data need none."""

from collections.abc import Iterable
from functools import cached_property

from modelmill.compress.draft import Batch
from modelmill.contract.jobfile import Data
from modelmill.recipe.base import Recipe
from modelmill.train.cursor import derive, permutation, shares
from modelmill.train.data import Part, count, open_parts, open_rows, training_batches, validation_batches
from modelmill.train.hyperparameters import Schedule

CALIBRATION_BATCH = 32


class JobMaterial:
    """See `draft.Material`."""

    def __init__(self, recipe: Recipe, data: Data, *, seed: int) -> None:
        self._recipe, self._data, self._seed = recipe, data, derive(seed, "compress")

    def rows(self) -> int:
        return len(self._parts[0])

    def batches(self, *, epoch: int, batch_size: int) -> Iterable[Batch]:
        steps = -(-self.rows() // batch_size)
        schedule = Schedule(samples=self.rows(), batch_size=batch_size, total_steps=steps * (epoch + 1))
        order = shares(schedule, seed=self._seed, first_step=steps * epoch, rank=0, world=1)
        return training_batches(self._parts[0], order, seed=self._seed, workers=0, pin=False)

    def calibration(self, *, rows: int) -> list[Batch]:
        numbers = self._drawn("calibration", self._plain.numbers)[:rows]
        return self._read(Part(rows=self._plain.rows, numbers=numbers))

    def _drawn(self, purpose: str, numbers: Iterable[int]) -> list[int]:
        listed = list(numbers)
        return [listed[place] for place in permutation(seed=derive(self._seed, purpose), epoch=0, samples=len(listed))]

    def _read(self, part: Part) -> list[Batch]:
        return list(validation_batches(part, seed=self._seed, batch_size=CALIBRATION_BATCH, rank=0, world=1))

    @cached_property
    def _parts(self) -> tuple[Part, Part | None]:
        return open_parts(self._recipe, self._data, seed=self._seed)

    @cached_property
    def _plain(self) -> Part:
        """The training rows without augmentation."""
        numbers = self._parts[0].numbers
        assert self._data.train is not None, "open_parts has checked it"
        rows = open_rows(self._recipe, self._data.train, field="data.train", training=False)
        return Part(rows=rows, numbers=[number for number in numbers if number < count(rows)])
