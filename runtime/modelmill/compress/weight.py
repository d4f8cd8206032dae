"""A compressed weight: a module that holds what the file holds, and multiplies by it as it is.

Subclasses are codecs. A codec must say how it is stored and give any of its rows as floats; with that alone it is computed
on a tile of output channels at a time, on any device. What has kernels of its own overrides the products.
"""

import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import nn
from torch.nn import functional

from modelmill.compress.codes import inputs_of, weight_of
from modelmill.kernels import products
from modelmill.kernels.gpu.whole import Whole

TILE_ELEMENTS = 1 << 18
WHOLE_ELEMENTS = 1 << 12
"""A weight of up to 16 KiB as floats is one tile: activations are larger anyway."""

_mode = threading.local()


@contextmanager
def exact() -> Iterator[None]:
    """Inside, in this thread, layers compute with the decoded weight in float32 and do not round activations.

    Two forms of a module can be compared closely this way: where activations are rounded, the last bit of a sum decides
    about a whole step.
    """
    before, _mode.exact = is_exact(), True
    try:
        yield
    finally:
        _mode.exact = before


def is_exact() -> bool:
    return getattr(_mode, "exact", False)


Take = Callable[[str], torch.Tensor]
"""Gives the stored tensor whose name ends in this (the weight's own for the empty string); refuses what is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Of a convolution without groups whose padding is zeros."""

    stride: tuple[int, int]
    padding: tuple[int, int] | str
    dilation: tuple[int, int]


class CompressedWeight(nn.Module):
    """The weight [N, ...] of a linear layer or a convolution; for inference only."""

    codec: ClassVar[str]
    instructions: ClassVar[str] = products.ISA
    """What its products run on where they run on a CPU."""
    decodable: ClassVar[bool] = True
    """Whether a dense layer with the decoded weight computes the same."""
    shape: tuple[int, ...]
    """Of the dense weight."""
    activation_scale: float | None = None
    """Of int8 activations, chosen by calibration; None: each row's or sample's own, found when it comes."""

    @classmethod
    @abstractmethod
    def read(cls, name: str, descriptor: dict[str, Any], take: Take) -> Self:
        """From a file that nobody trusts: raises BadArtifact with the tensor's name for anything that does not fit together."""

    @abstractmethod
    def descriptor(self) -> dict[str, Any]:
        """What `read` gets back, besides the codec's name: JSON."""

    @abstractmethod
    def tensors(self) -> dict[str, torch.Tensor]:
        """What is stored, by the end of its name: "" for the weight's own, "scale" for `<weight>_scale`."""

    @abstractmethod
    def rows(self, start: int, stop: int) -> torch.Tensor:
        """float32 [stop - start, K], channels last."""

    @abstractmethod
    def rescale(self, factor: torch.Tensor) -> None:
        """Multiplies output channel n by factor [N] (such as a batch norm's), in scales where there are any."""

    def decode(self) -> torch.Tensor:
        return weight_of(self.rows(0, self.shape[0]), self.shape)

    def whole(self) -> Whole | None:
        """Of a linear layer: the weight in whole numbers, None where it has none."""
        return None

    def prepare(self) -> None:
        """Called once when the weight is loaded, to put it into the order that a kernel of this machine reads."""

    def linear(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """x [M, K] times the weight transposed, plus bias [N]."""
        product = x.new_empty(x.shape[0], self.shape[0])
        for start, stop in self._tiles():
            torch.mm(x, self.rows(start, stop).to(x.dtype).t(), out=product[:, start:stop])
        return product if bias is None else product.add_(bias)

    def conv2d(self, x: torch.Tensor, bias: torch.Tensor | None, geometry: Geometry) -> torch.Tensor:
        """Convolution of x [B, C, H, W] or [C, H, W], plus bias [N]."""
        tiles = (weight_of(self.rows(*tile).to(x.dtype), self.shape) for tile in self._tiles())
        parts = [functional.conv2d(x, tile, None, geometry.stride, geometry.padding, geometry.dilation) for tile in tiles]
        product = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-3)
        return product if bias is None else product.add_(bias[:, None, None])

    def rectified_conv2d(
        self, x: torch.Tensor, bias: torch.Tensor | None, geometry: Geometry, residual: torch.Tensor | None
    ) -> torch.Tensor:
        """max(0, the convolution + residual)"""
        return add_and_cut(self.conv2d(x, bias, geometry), residual)

    def extra_repr(self) -> str:
        return f"{list(self.shape)}, {self.codec}"

    def _tiles(self) -> list[tuple[int, int]]:
        """Of output channels: never more than half of the weight, but for a small one."""
        outputs, inputs = self.shape[0], inputs_of(self.shape)
        if outputs * inputs <= WHOLE_ELEMENTS:
            return [(0, outputs)]
        step = max(1, min(outputs // 4, max(16, TILE_ELEMENTS // max(1, inputs))))
        return [(start, min(outputs, start + step)) for start in range(0, outputs, step)]


def add_and_cut(product: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
    """max(0, product + residual), in place."""
    return (product if residual is None else product.add_(residual)).relu_()
