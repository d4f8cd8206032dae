"""`sparse`: single values that are kept, and where: 2 of each 4 inputs, or a bit for each input; int8 with scales, or float32.

    descriptor  {"codec": "sparse", "shape": [N, ...], "pattern": "2:4" or "mask", "scale": true}
    <weight>, <weight>_bits, <weight>_starts (mask), <weight>_scale: as `kernels.sparse` lays them out

It makes a file smaller. It makes nothing faster on a CPU: rows are written out, a tile at a time, and multiplied.
"""

from typing import Any, Literal, Self

import torch

from modelmill.compress.codecs.blocks import kept_rows
from modelmill.compress.codecs.shape import shape_of
from modelmill.compress.codes import inputs_of
from modelmill.compress.errors import BadArtifact
from modelmill.compress.grids.uniform import Uniform
from modelmill.compress.weight import CompressedWeight, Take
from modelmill.kernels import integers, products, sparse
from modelmill.kernels.gpu.whole import Whole

NAME = "sparse"
Pattern = Literal["2:4", "mask"]


class SparseWeight(CompressedWeight):
    codec = NAME
    values: torch.Tensor
    bits: torch.Tensor
    starts: torch.Tensor | None
    scale: torch.Tensor | None

    def __init__(self, kept: sparse.Sparse, *, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("values", kept.values)
        self.register_buffer("bits", kept.bits)
        self.register_buffer("starts", kept.starts)
        self.register_buffer("scale", kept.scale)

    @classmethod
    def of(cls, weight: torch.Tensor, *, pattern: Pattern, int8: Uniform | None, name: str) -> Self:
        """What is not zero of a weight [N, ...]."""
        rows, scale = kept_rows(weight, int8=int8, name=name)
        encode = sparse.encode_two_of_four if pattern == "2:4" else sparse.encode_mask
        return cls(encode(rows, scale=scale, name=name), shape=tuple(weight.shape))

    @classmethod
    def read(cls, name: str, descriptor: dict[str, Any], take: Take) -> Self:
        shape, pattern = shape_of(name, descriptor), descriptor.get("pattern")
        if pattern not in ("2:4", "mask"):
            raise BadArtifact(f"tensor {name!r}: pattern {pattern!r} is not known; use 2:4 or mask")
        kept = sparse.Sparse(
            values=take(""),
            bits=take("bits"),
            starts=take("starts") if pattern == "mask" else None,
            scale=take("scale") if descriptor.get("scale") is True else None,
            outputs=shape[0],
            inputs=inputs_of(shape),
        )
        sparse.check(kept, name=name)
        return cls(kept, shape=shape)

    def descriptor(self) -> dict[str, Any]:
        pattern = "2:4" if self.starts is None else "mask"
        return {"shape": list(self.shape), "pattern": pattern} | ({} if self.scale is None else {"scale": True})

    def tensors(self) -> dict[str, torch.Tensor]:
        parts = {"": self.values, "bits": self.bits, "starts": self.starts, "scale": self.scale}
        return {name: part for name, part in parts.items() if part is not None}

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return products.decode_rows(self._kept(), start, stop)

    def whole(self) -> Whole | None:
        if self.scale is None:
            return None
        return Whole(
            numbers=sparse.decode(self._kept(), scaled=False).to(torch.int8), scale=self.scale[:, None],
            levels=tuple(range(-integers.LIMIT, integers.LIMIT + 1)), two_of_four=self.starts is None,
            activation_scale=self.activation_scale,
        )  # fmt: skip

    def linear(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return products.sparse_linear(x, self._kept(), bias, activation_scale=self.activation_scale)

    def rescale(self, factor: torch.Tensor) -> None:
        if self.scale is not None:
            self.scale = self.scale * factor
        elif self.starts is None:
            self.values = self.values * factor[:, None]
        else:
            self.values = self.values * factor.repeat_interleave(self.starts[1:] - self.starts[:-1])

    def _kept(self) -> sparse.Sparse:
        return sparse.Sparse(
            values=self.values,
            bits=self.bits,
            starts=self.starts,
            scale=self.scale,
            outputs=self.shape[0],
            inputs=inputs_of(self.shape),
        )
