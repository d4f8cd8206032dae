"""A workload: a model, what it is calibrated, scored and timed on, and how its answers are judged."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.compression import data, models

Inputs = tuple[torch.Tensor, ...]
Call = Callable[..., torch.Tensor]
SCORED = {"resnet20": 32, "resnet56": 32, "minilm": 8}
"""Rows in a batch when answers are judged; one of the timed sizes, so that nothing is compiled for it alone."""
BATCHES = {"resnet20": (1, 32), "resnet56": (1, 32), "minilm": (1, 8)}
"""Rows in the calls that are timed; the last one is what speedups are promised for. A row of minilm has 32 tokens."""
CALIBRATION_SENTENCES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    value: float
    """Top-1 accuracy on the test images, or the mean cosine to the fp32 model's embeddings."""
    least: float
    """The worst row's cosine; for images the accuracy again."""


@dataclass(frozen=True, slots=True)
class Workload:
    name: str

    @property
    def is_network(self) -> bool:
        return self.name in models.BLOCKS

    def module(self) -> nn.Module:
        """As trained."""
        return models.network(self.name) if self.is_network else models.encoder()

    def baseline(self) -> nn.Module:
        """Batch norms folded, channels-last: what everybody begins with."""
        module = models.folded(self.module())
        return module.to(memory_format=torch.channels_last) if self.is_network else module

    def timed(self, batch: int) -> Inputs:
        if self.is_network:
            return (_last(data.calibration_images()[:batch]),)
        return data.token_rows(batch, seed=batch)

    def calibration(self, batch: int) -> Iterator[Inputs]:
        """Batches of exactly this many rows."""
        rows: Inputs = (data.calibration_images(),) if self.is_network else _head(data.tokenized())
        yield from _whole(rows, batch)

    def score(self, call: Call) -> Score:
        """Judges all answers; `call` takes batches of SCORED rows."""
        batch = SCORED[self.name]
        with torch.inference_mode():
            return self._accuracy(call, batch) if self.is_network else self._fidelity(call, batch)

    def _accuracy(self, call: Call, batch: int) -> Score:
        images, labels = data.test_set()
        right = 0
        for start in range(0, len(images), batch):
            rows, wanted = images[start : start + batch], labels[start : start + batch]
            scores = call(_last(_filled(rows, batch)))[: len(rows)]
            right += int((scores.argmax(1) == wanted).sum())
        return Score(value=right / len(images), least=right / len(images))

    def _fidelity(self, call: Call, batch: int) -> Score:
        exact, rows = self.module(), data.tokenized()
        cosines = [
            nn.functional.cosine_similarity(call(*part).float(), exact(*part), dim=1).double() for part in _whole(rows, batch)
        ]
        found = torch.cat(cosines)
        return Score(value=float(found.mean()), least=float(found.min()))


def _head(rows: Inputs) -> Inputs:
    """Sentences to calibrate on. They are also judged: a library that calibrates is favoured a little, not ours."""
    return tuple(tensor[:CALIBRATION_SENTENCES] for tensor in rows)


def _whole(rows: Inputs, batch: int) -> Iterator[Inputs]:
    for start in range(0, len(rows[0]) - batch + 1, batch):
        yield tuple(_last(tensor[start : start + batch]) for tensor in rows)


def _filled(rows: torch.Tensor, batch: int) -> torch.Tensor:
    """The last batch with its first row repeated up to the size that was compiled for."""
    return rows if len(rows) == batch else torch.cat([rows, rows[:1].expand(batch - len(rows), *rows.shape[1:])])


def _last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
