"""One operation of a program: a convolution, what is added to it, and whether it is cut off below zero."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from modelmill.kernels import tiles
from modelmill.kernels.conv import Geometry
from modelmill.kernels.weight import Coded


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dense:
    """A float32 weight in the order that kernels read."""

    panel: torch.Tensor
    """float32 [tiles, h * w * C, 16]: 16 output channels side by side."""
    bias: torch.Tensor | None
    """float32 [outputs]"""
    outputs: int

    @property
    def inputs(self) -> int:
        return self.panel.shape[1]

    @classmethod
    def of(cls, weight: torch.Tensor, bias: torch.Tensor | None) -> "Dense":
        """From a convolution's weight [outputs, C, h, w]."""
        outputs = weight.shape[0]
        rows = weight.detach().float().permute(0, 2, 3, 1).reshape(outputs, -1)
        count = -(-outputs // tiles.ROWS)
        padded = rows.new_zeros(count * tiles.ROWS, rows.shape[1])
        padded[:outputs] = rows
        panel = padded.view(count, tiles.ROWS, -1).transpose(1, 2).contiguous()
        return cls(panel=panel, bias=None if bias is None else bias.detach().float().contiguous(), outputs=outputs)

    def plain(self, kernel: Sequence[int]) -> torch.Tensor:
        """What `of` got, for a kernel (h, w)."""
        rows = self.panel.transpose(1, 2).flatten(0, 1)[: self.outputs]
        return rows.view(self.outputs, *kernel, -1).permute(0, 3, 1, 2)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Operation:
    """relu(convolution of values[x] + values[residual])"""

    weight: Coded | Dense
    geometry: Geometry
    x: int
    residual: int | None = None
    relu: bool = True
    activation_scale: float | None = None
    """What calibration chose for x; the same for all coded operations on x."""
