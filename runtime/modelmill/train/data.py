"""Opens a recipe's data and feeds it to a rank, share by share.

Sources are map-style datasets, so a rank reads only its own samples. The validation split is either a URI of its own
or a seeded fraction of the training data, which is then read without augmentation.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy
import torch
from torch.utils.data import DataLoader, Dataset

from modelmill.contract.jobfile import Data
from modelmill.failures import Fault
from modelmill.recipe.base import Recipe
from modelmill.storage import AccessDenied, BucketNotFound, NotFound
from modelmill.train.cursor import Share, cut, derive

Batch = tuple[torch.Tensor, torch.Tensor]
Rows = Dataset[tuple[torch.Tensor, torch.Tensor]]


class DataNotFound(Fault):
    reason = "DataNotFound"
    fatal = True


class DataUnfit(Fault):
    """The data is there, but cannot be trained on."""

    reason = "DataUnfit"
    fatal = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some rows of a dataset."""

    rows: Rows
    numbers: Sequence[int]
    """Which rows belong to the part."""

    def __len__(self) -> int:
        return len(self.numbers)


def open_rows(recipe: Recipe, uri: str, *, field: str, training: bool) -> Rows:
    """The recipe's dataset at `uri`; `field` is the part of the spec to blame."""
    try:
        rows = recipe.dataset(uri, training=training)
    except (FileNotFoundError, IsADirectoryError, NotFound, BucketNotFound) as error:
        raise DataNotFound(f"{field}: there is no data at {uri}: {error}") from error
    except (PermissionError, AccessDenied) as error:
        raise DataNotFound(f"{field}: no permission to read {uri}: {error}; check credentials or the files' owner") from error
    if not hasattr(rows, "__len__") or not hasattr(rows, "__getitem__"):
        raise DataUnfit(f"{field}: {type(recipe).__name__}.dataset() must return a map-style dataset (__len__, __getitem__)")
    if count(rows) == 0:
        raise DataUnfit(f"{field}: {uri} has no rows")
    return rows


def count(rows: Rows) -> int:
    return len(cast(Sequence[Any], rows))


def open_parts(recipe: Recipe, data: Data, *, seed: int) -> tuple[Part, Part | None]:
    """What to train on, and what to validate on after each epoch (if anything)."""
    if data.train is None:
        raise DataNotFound("data.train: no URI is given; say where the training data is")
    rows = open_rows(recipe, data.train, field="data.train", training=True)
    every = range(count(rows))
    if data.validation is not None:
        held = open_rows(recipe, data.validation, field="data.validation", training=False)
        return Part(rows=rows, numbers=every), Part(rows=held, numbers=range(count(held)))
    fraction = data.validation_fraction or 0.0
    if fraction == 0.0:
        return Part(rows=rows, numbers=every), None
    held_count = round(len(every) * fraction)
    if not 0 < held_count < len(every):
        raise DataUnfit(f"data.validationFraction: {fraction} of {len(every)} rows leaves nothing to train or validate on")
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(derive(seed, "validation"))).tolist()
    plain = open_rows(recipe, data.train, field="data.train", training=False)
    return Part(rows=rows, numbers=sorted(order[held_count:])), Part(rows=plain, numbers=sorted(order[:held_count]))


class _Seeded(Dataset[Any]):
    """Reads (epoch, sample) pairs; a sample's augmentation depends on nothing but these."""

    def __init__(self, part: Part, *, seed: int) -> None:
        self._part, self._seed = part, seed

    def __getitem__(self, key: tuple[int, int]) -> Any:
        seed_generators(derive(self._seed, "sample", *key))
        # Dataset declares no __getitem__ of its own type; open_rows has checked that there is one.
        return self._part.rows[self._part.numbers[key[1]]]


def seed_generators(seed: int) -> None:
    """The generators that recipes draw from on the CPU: torch's, Python's and NumPy's."""
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    numpy.random.seed(seed & 0xFFFFFFFF)


def training_batches(part: Part, order: Iterable[Share], *, seed: int, workers: int, pin: bool) -> Iterator[Batch]:
    """One batch for each share."""
    keys = ([(share.epoch, sample) for sample in share.samples] for share in order)
    return _batches(_Seeded(part, seed=seed), keys, workers=workers, pin=pin)


def validation_batches(part: Part, *, seed: int, batch_size: int, rank: int, world: int) -> Iterator[Batch]:
    """The rank's share of the held-out rows, in order."""
    own = range(len(part))[cut(len(part), rank=rank, world=world)]
    keys = ([(0, sample) for sample in own[start : start + batch_size]] for start in range(0, len(own), batch_size))
    return _batches(_Seeded(part, seed=seed), keys, workers=0, pin=False)


def _batches(rows: Dataset[Any], keys: Iterable[list[tuple[int, int]]], *, workers: int, pin: bool) -> Iterator[Batch]:
    # torch's types want lists of int, but any key that the dataset understands will do.
    loader: DataLoader[Any] = DataLoader(rows, batch_sampler=cast(Any, keys), num_workers=workers, pin_memory=pin)
    for batch in loader:
        if not (isinstance(batch, list | tuple) and len(batch) == 2):
            raise DataUnfit("dataset(): every item must be a pair (input, target)")
        yield batch[0], batch[1]
