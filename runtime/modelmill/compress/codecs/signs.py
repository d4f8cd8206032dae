"""Weights and activations of 1 bit (`grids.xnor`): `signs` for linear layers, `sign-codes` for convolutions.

    {"codec": "signs", "shape": [N, K]}
    <weight> int64 [N, ceil(K / 64)], <weight>_scale float32 [N]: as `kernels.binary` lays them out

    {"codec": "sign-codes", "shape": [N, C, h, w], ...}: as `codes` of 1 bit

A convolution's patches are not written out to count equal signs: the signs of its input are int8 operands of the codes' product.
"""

from typing import Any, Self

import torch

from modelmill.compress.codecs.coded import CodedWeight
from modelmill.compress.codecs.shape import shape_of
from modelmill.compress.codes import Codes
from modelmill.compress.errors import BadArtifact
from modelmill.compress.weight import CompressedWeight, Geometry, Take
from modelmill.kernels import binary

NAME = "signs"


class SignWeight(CompressedWeight):
    codec = NAME
    decodable = False
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


class SignCodes(CompressedWeight):
    """y = conv(sign(x), codes) * mean |x| of each sample + bias. 0 counts as +1, the border of zeros as nothing."""

    codec = "sign-codes"
    instructions = CodedWeight.instructions
    decodable = False

    def __init__(self, codes: CodedWeight) -> None:
        super().__init__()
        self.codes, self.shape = codes, codes.shape

    @classmethod
    def of(cls, codes: Codes) -> Self:
        """Of binary codes of a weight [N, C, h, w]."""
        return cls(CodedWeight.of(codes))

    @classmethod
    def read(cls, name: str, descriptor: dict[str, Any], take: Take) -> Self:
        codes = CodedWeight.read(name, descriptor, take)
        if len(codes.shape) != 4 or codes.bits != 1:
            raise BadArtifact(f"tensor {name!r}: sign-codes are convolutions of 1 bit, it is {codes.extra_repr()}")
        return cls(codes)

    def descriptor(self) -> dict[str, Any]:
        return self.codes.descriptor()

    def tensors(self) -> dict[str, torch.Tensor]:
        return self.codes.tensors()

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return self.codes.rows(start, stop)

    def prepare(self) -> None:
        self.codes.prepare()

    def rescale(self, factor: torch.Tensor) -> None:
        self.codes.rescale(factor)

    def conv2d(self, x: torch.Tensor, bias: torch.Tensor | None, geometry: Geometry) -> torch.Tensor:
        size = x.abs().mean(dim=(-3, -2, -1), keepdim=True)
        y = self.codes.conv2d(torch.where(x < 0, -1.0, 1.0).to(x.dtype), None, geometry) * size
        return y if bias is None else y + bias[:, None, None]
