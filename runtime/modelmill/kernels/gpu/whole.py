"""What every way sees of a weight, whatever codec stored it."""

from dataclasses import dataclass

import torch

from modelmill.compress.codes import meaning


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Whole:
    """A linear layer's weight [N, K] in whole numbers: w[n, k] = scale[n, g] * (numbers[n, k] - zero[n, g]), g = k // (K / G)."""

    numbers: torch.Tensor
    """int8 [N, K]"""
    scale: torch.Tensor
    """float32 [N, G]"""
    levels: tuple[int, ...]
    """What a number may be."""
    zero: torch.Tensor | None = None
    """int8 [N, G]; None is 0 throughout."""
    two_of_four: bool = False
    """At most 2 of every 4 numbers of a row are not 0."""
    activation_scale: float | None = None
    """As in `kernels.linear`."""

    @property
    def outputs(self) -> int:
        return self.numbers.shape[0]

    @property
    def inputs(self) -> int:
        return self.numbers.shape[1]

    @property
    def group(self) -> int:
        """Inputs that share a scale."""
        return self.inputs // self.scale.shape[1]

    def to(self, device: torch.device) -> "Whole":
        zero = None if self.zero is None else self.zero.to(device)
        return Whole(
            numbers=self.numbers.to(device), scale=self.scale.to(device), levels=self.levels, zero=zero,
            two_of_four=self.two_of_four, activation_scale=self.activation_scale,
        )  # fmt: skip

    def decode(self) -> torch.Tensor:
        """float32 [N, K]"""
        return meaning(self.numbers, scale=self.scale, levels=None, zero=self.zero)
