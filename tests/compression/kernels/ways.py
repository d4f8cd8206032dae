"""Ways that run on a CPU, for what can be shown without a GPU, and ways that are wrong.

`Tinygemm` is torch's for CPUs: its codes lie elsewhere and mean the same. `Sparse` goes through the form that torch's CUTLASS
kernels take, by torch's own conversions.
"""

from typing import Self

import torch
from torch.nn import functional
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from modelmill.compress.codecs.coded import CodedWeight
from modelmill.compress.grids.grid import Grid
from modelmill.kernels.gpu import Whole
from modelmill.kernels.gpu.int4 import Int4
from modelmill.kernels.gpu.integer import Int8, TwoOfFour

SIXTEEN = 16


class Tinygemm(Int4):
    @classmethod
    def packed(cls, codes: torch.Tensor) -> torch.Tensor:
        padded = functional.pad(codes, (0, 0, 0, -len(codes) % SIXTEEN)).int()
        packed: torch.Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(padded, 8)
        return packed

    def multiply(self, rows: torch.Tensor, group: int) -> torch.Tensor:
        pairs = functional.pad(self.scale_and_zero, (0, 0, 0, -self.outputs % SIXTEEN))
        y: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.codes, group, pairs)
        return y[:, : self.outputs]


class Sparse(TwoOfFour):
    @classmethod
    def packed(cls, numbers: torch.Tensor) -> torch.Tensor:
        values, places = sparse_semi_structured_from_dense_cutlass(numbers)
        dense: torch.Tensor = sparse_semi_structured_to_dense_cutlass(values, places)
        return dense

    def sums(self, whole: torch.Tensor) -> torch.Tensor:
        return torch._int_mm(whole, self.numbers.t())


class SwapsNeighbours(Tinygemm):
    @classmethod
    def packed(cls, codes: torch.Tensor) -> torch.Tensor:
        return super().packed(codes.view(len(codes), -1, 2).flip(2).flatten(1))


class SubtractsZeros(Tinygemm):
    @classmethod
    def of(cls, weight: Whole, bias: torch.Tensor | None) -> Self:
        made = super().of(weight, bias)
        made.scale_and_zero[..., 1] *= -1
        return made


class OneGroup(Tinygemm):
    def multiply(self, rows: torch.Tensor, group: int) -> torch.Tensor:
        self.scale_and_zero = self.scale_and_zero[:1].expand_as(self.scale_and_zero).contiguous()
        return super().multiply(rows, group)


class SumsInHalf(Int8):
    def sums(self, whole: torch.Tensor) -> torch.Tensor:
        return (whole.half() @ self.numbers.half().t()).float().nan_to_num(posinf=0, neginf=0).int()


class LosesARow(Int8):
    def sums(self, whole: torch.Tensor) -> torch.Tensor:
        return super().sums(whole).roll(1, dims=0)


class GivesNaN(Int8):
    def product(self, x: torch.Tensor) -> torch.Tensor:
        return super().product(x) * float("nan")


class Raises(Int8):
    def sums(self, whole: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("CUDA error: no kernel image is available")


def whole(grid: Grid, outputs: int, inputs: int, *, activation_scale: float | None = None) -> Whole:
    """Of a random weight on the grid, through the form of the file."""
    torch.manual_seed(outputs + inputs)
    weight = CodedWeight.of(grid.encode(torch.randn(outputs, inputs), name="w"))
    weight.activation_scale = activation_scale
    return weight.whole()
