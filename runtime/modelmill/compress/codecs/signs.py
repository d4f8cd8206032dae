"""`signs`: weights and activations of 1 bit (`grids.xnor`); for linear layers.

descriptor  {"codec": "signs", "shape": [N, K]}
<weight> int64 [N, ceil(K / 64)], <weight>_scale float32 [N]: as `kernels.binary` lays them out
"""

from typing import Any, Self

import torch

from modelmill.compress.codecs.shape import shape_of
from modelmill.compress.codes import Codes
from modelmill.compress.errors import BadArtifact
from modelmill.compress.weight import CompressedWeight, Take
from modelmill.kernels import binary

NAME = "signs"


class SignWeight(CompressedWeight):
    codec = NAME
    signs: torch.Tensor
    scale: torch.Tensor

    def __init__(self, signs: torch.Tensor, scale: torch.Tensor, *, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("signs", signs)
        self.register_buffer("scale", scale)

    @classmethod
    def of(cls, codes: Codes) -> Self:
        """Of binary codes [N, K] with a scale for each row."""
        return cls(binary.pack_signs(codes.decode()), codes.scale.flatten(), shape=codes.shape)

    @classmethod
    def read(cls, name: str, descriptor: dict[str, Any], take: Take) -> Self:
        shape = shape_of(name, descriptor)
        if len(shape) != 2:
            raise BadArtifact(f"tensor {name!r}: signs are for linear layers, its shape is {list(shape)}")
        signs, scale = take(""), take("scale")
        binary.check(signs, scale, outputs=shape[0], inputs=shape[1], name=name)
        return cls(signs, scale, shape=shape)

    def descriptor(self) -> dict[str, Any]:
        return {"shape": list(self.shape)}

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"": self.signs, "scale": self.scale}

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return binary.unpack_signs(self.signs[start:stop], inputs=self.shape[1]) * self.scale[start:stop, None]

    def linear(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return binary.binary_linear(x, self.signs, self.scale, bias)

    def rescale(self, factor: torch.Tensor) -> None:
        self.scale = self.scale * factor
