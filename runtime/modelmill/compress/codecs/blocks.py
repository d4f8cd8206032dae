"""`blocks`: blocks of 16 or 4 output channels x 1 input that are kept, in int8 with a scale for each channel, or float32.

descriptor  {"codec": "blocks", "shape": [N, ...], "scale": true}
<weight>, <weight>_index, <weight>_starts, <weight>_scale: as `kernels.blocks` lays them out
"""

from typing import Any, Self

import torch

from modelmill.compress.codecs.shape import shape_of
from modelmill.compress.codes import inputs_of, rows_of
from modelmill.compress.grids.uniform import Uniform
from modelmill.compress.weight import CompressedWeight, Geometry, Take
from modelmill.kernels import blocks, integers, products
from modelmill.kernels.block_conv import block_conv2d
from modelmill.kernels.gpu.whole import Whole

NAME = "blocks"


class BlockWeight(CompressedWeight):
    codec = NAME
    values: torch.Tensor
    index: torch.Tensor
    starts: torch.Tensor
    scale: torch.Tensor | None

    def __init__(self, kept: blocks.Blocks, *, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("values", kept.values)
        self.register_buffer("index", kept.index)
        self.register_buffer("starts", kept.starts)
        self.register_buffer("scale", kept.scale)

    @classmethod
    def of(cls, weight: torch.Tensor, *, height: int, int8: Uniform | None, name: str) -> Self:
        """What is not zero of a weight [N, ...]."""
        rows, scale = kept_rows(weight, int8=int8, name=name)
        return cls(blocks.encode(rows, height=height, scale=scale, name=name), shape=tuple(weight.shape))

    @classmethod
    def read(cls, name: str, descriptor: dict[str, Any], take: Take) -> Self:
        shape = shape_of(name, descriptor)
        scale = take("scale") if descriptor.get("scale") is True else None
        kept = blocks.Blocks(
            values=take(""), index=take("index"), starts=take("starts"), scale=scale, outputs=shape[0], inputs=inputs_of(shape)
        )
        blocks.check(kept, name=name)
        return cls(kept, shape=shape)

    def descriptor(self) -> dict[str, Any]:
        return {"shape": list(self.shape)} | ({} if self.scale is None else {"scale": True})

    def tensors(self) -> dict[str, torch.Tensor]:
        parts = {"": self.values, "index": self.index, "starts": self.starts, "scale": self.scale}
        return {name: part for name, part in parts.items() if part is not None}

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return products.decode_rows(self._kept(), start, stop)

    def whole(self) -> Whole | None:
        if self.scale is None:
            return None
        numbers = blocks.decode(self._kept(), scaled=False).to(torch.int8)
        levels = tuple(range(-integers.LIMIT, integers.LIMIT + 1))
        return Whole(numbers=numbers, scale=self.scale[:, None], levels=levels, activation_scale=self.activation_scale)

    def linear(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return products.block_linear(x, self._kept(), bias, activation_scale=self.activation_scale)

    def conv2d(self, x: torch.Tensor, bias: torch.Tensor | None, geometry: Geometry) -> torch.Tensor:
        if self.scale is None or x.is_cuda:
            return super().conv2d(x, bias, geometry)
        height, width = self.shape[2:]
        return block_conv2d(
            x,
            self._kept(),
            bias,
            kernel=(height, width),
            stride=geometry.stride,
            padding=geometry.padding,
            dilation=geometry.dilation,
            activation_scale=self.activation_scale,
        )

    def rescale(self, factor: torch.Tensor) -> None:
        if self.scale is not None:
            self.scale = self.scale * factor
            return
        height = self.values.shape[2]
        rows = torch.nn.functional.pad(factor, (0, -len(factor) % height)).view(-1, height)
        quads = torch.arange(len(rows)).repeat_interleave(self.starts[1:] - self.starts[:-1])
        self.values = self.values * rows[quads][:, None]

    def _kept(self) -> blocks.Blocks:
        return blocks.Blocks(
            values=self.values,
            index=self.index,
            starts=self.starts,
            scale=self.scale,
            outputs=self.shape[0],
            inputs=inputs_of(self.shape),
        )


def kept_rows(weight: torch.Tensor, *, int8: Uniform | None, name: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The weight's rows, channels last: as float32, or on a symmetric 8-bit grid with a scale for each."""
    if int8 is None:
        return rows_of(weight.detach()).to(torch.float32), None
    codes = int8.encode(weight, name=name)
    return codes.codes, codes.scale.flatten()
