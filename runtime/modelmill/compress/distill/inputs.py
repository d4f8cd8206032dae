"""Models of what inputs look like, made from a few hundred rows, to draw new ones from.

Floating point, D values a row: a Gaussian with a low-rank covariance plus a diagonal one (probabilistic principal components,
Tipping and Bishop 1999, with a variance for each value):

    x = mean + t * (U diag(s) z + sqrt(r) * e),   z ~ N(0, I_k), e ~ N(0, I_D)

U [D, k] and s [k]: the first principal directions and deviations; r [D]: the variance that they leave; t: the temperature.
Values are clamped to the range seen at each place, with a temperature above 1 to the range of the whole.

Whole numbers, such as tokens: a chain along the positions. The first is drawn from what stood there, each next one from what
followed the one before it at this very place; with probability `FRESH` from what stood
at this place at all. A frequency f counts as f ** (1 / t).
"""

from dataclasses import dataclass
from typing import Protocol

import torch

from modelmill.compress.errors import CompressionError

FRESH = 0.1
"""Without it, long rows would only repeat those seen."""


class InputModel(Protocol):
    def draw(self, rows: int, *, generator: torch.Generator, temperature: float) -> torch.Tensor:
        """Inputs [rows, ...] in the shape and dtype of those modelled."""
        ...


def model_of(inputs: torch.Tensor, *, components: int) -> InputModel:
    """The model for inputs [R, ...] of any dtype; `components` is k for floating point."""
    if inputs.numel() == 0:
        raise CompressionError(f"simulated distillation: inputs {list(inputs.shape)} have no values to model")
    return Gaussian.of(inputs, components=components) if inputs.is_floating_point() else Tokens.of(inputs)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gaussian:
    shape: tuple[int, ...]
    dtype: torch.dtype
    mean: torch.Tensor
    directions: torch.Tensor
    """[k, D]: U diag(s), transposed."""
    rest: torch.Tensor
    """[D]: sqrt(r)."""
    low: torch.Tensor
    high: torch.Tensor

    @classmethod
    def of(cls, inputs: torch.Tensor, *, components: int) -> "Gaussian":
        rows = inputs.reshape(len(inputs), -1).float()
        if not bool(rows.isfinite().all()):
            raise CompressionError("simulated distillation: calibration rows have values that are not finite")
        mean = rows.mean(dim=0)
        _, deviations, directions = torch.linalg.svd(rows - mean, full_matrices=False)
        freedom = max(1, len(rows) - 1)
        directions = (directions * (deviations / freedom**0.5)[:, None])[:components]
        left = ((rows - mean).square().sum(dim=0) / freedom - directions.square().sum(dim=0)).clamp_min(0)
        return cls(
            shape=tuple(inputs.shape[1:]), dtype=inputs.dtype, mean=mean, directions=directions, rest=left.sqrt(),
            low=rows.amin(dim=0), high=rows.amax(dim=0),
        )  # fmt: skip

    def draw(self, rows: int, *, generator: torch.Generator, temperature: float) -> torch.Tensor:
        common = torch.randn(rows, len(self.directions), generator=generator) @ self.directions
        own = torch.randn(rows, len(self.mean), generator=generator) * self.rest
        low, high = (self.low, self.high) if temperature <= 1 else (self.low.min(), self.high.max())
        drawn = (self.mean + temperature * (common + own)).clamp(low, high)
        return drawn.view(rows, *self.shape).to(self.dtype)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tokens:
    shape: tuple[int, ...]
    dtype: torch.dtype
    seen: tuple[torch.Tensor, ...]
    """For each position, the different values there."""
    places: torch.Tensor
    """[R, D]: which of them each row has."""

    @classmethod
    def of(cls, inputs: torch.Tensor) -> "Tokens":
        rows = inputs.reshape(len(inputs), -1)
        found = [torch.unique(column, return_inverse=True) for column in rows.unbind(dim=1)]
        places = torch.stack([inverse for _, inverse in found], dim=1)
        return cls(shape=tuple(inputs.shape[1:]), dtype=inputs.dtype, seen=tuple(values for values, _ in found), places=places)

    def draw(self, rows: int, *, generator: torch.Generator, temperature: float) -> torch.Tensor:
        columns, before = list[torch.Tensor](), torch.zeros(rows, dtype=torch.int64)
        for position, values in enumerate(self.seen):
            here, count = self.places[:, position], len(values)
            alone = torch.bincount(here, minlength=count).double() ** (1 / temperature)
            chosen = torch.multinomial(alone, rows, replacement=True, generator=generator)
            if position > 0:
                follows = self._following(position, count) ** (1 / temperature)
                chained = torch.multinomial(follows[before], 1, generator=generator).squeeze(1)
                fresh = torch.rand(rows, generator=generator) < FRESH
                chosen = chosen.where(fresh, chained)
            columns.append(values[chosen])
            before = chosen
        return torch.stack(columns, dim=1).view(rows, *self.shape).to(self.dtype)

    def _following(self, position: int, count: int) -> torch.Tensor:
        """[values before, values here]: how often one followed the other; every value was followed by some other."""
        earlier, here = self.places[:, position - 1], self.places[:, position]
        pairs = torch.bincount(earlier * count + here, minlength=len(self.seen[position - 1]) * count)
        return pairs.view(-1, count).double()
