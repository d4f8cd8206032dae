"""What the steps of a variant work on, one after the other: a module in floats, and what is to become of its weights.

Nothing is rounded before the end: masks outlive later training, and grids are applied when the file is made.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import nn

from modelmill.compress.grids.grid import Grid
from modelmill.compress.structure import Edit
from modelmill.recipe.base import Recipe

Batch = tuple[torch.Tensor, torch.Tensor]
Pattern = Literal["Unstructured", "16x1", "4x1", "2:4"]
HEIGHTS = {"16x1": 16, "4x1": 4}
"""Output channels of a block, by its pattern."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mask:
    kept: torch.Tensor
    """bool, the weight's shape; a weight that is not kept is 0 from now on."""
    pattern: Pattern = "Unstructured"


@dataclass(slots=True, kw_only=True)
class Draft:
    module: nn.Module
    structure: tuple[Edit, ...] = ()
    """What was done to the recipe's module to get this one's shapes."""
    masks: dict[str, Mask] = field(default_factory=dict)
    """By the name of the weight."""
    grids: dict[str, Grid] = field(default_factory=dict)
    rounded: bool = False
    """Whether every tensor of floating point is stored as bfloat16, instead of grids."""
    activation_scales: dict[str, float] = field(default_factory=dict)
    """By the name of the weight: chosen by calibration; else each row has its own, found when it comes."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the log should know, such as what a step could not do."""
    reports: dict[str, bytes] = field(default_factory=dict)
    """Files to keep beside the variant's: the end of a name, such as search.json -> its bytes."""


class Material(Protocol):
    """The job's data, as steps want it."""

    def batches(self, *, epoch: int, batch_size: int) -> Iterable[Batch]:
        """The training rows in the order of this epoch, augmented."""
        ...

    def calibration(self, *, rows: int) -> list[Batch]:
        """Some rows of the training data, always the same, not augmented, in batches of at most 32."""
        ...

    def rows(self) -> int:
        """How many there are to train on."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    recipe: Recipe
    material: Material
    teacher: nn.Module
    """The trained dense model, to learn from; not to be changed."""
    seed: int = 0
    say: Callable[[str], None] = print
