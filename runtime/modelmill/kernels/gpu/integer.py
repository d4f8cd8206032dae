"""Whole numbers times whole numbers on a GPU's tensor cores, one scale for each channel of the weight.

The arithmetic of `kernels.reference`: activations are rounded as there, sums are exact, floats come in at the end.

- `Int8`: any numbers, one byte each (`torch._int_mm`).
- `TwoOfFour`: 2 of every 4 (Mishra et al. 2021), 5/8 of a byte for each input (cuSPARSELt, `torch._cslt_sparse_mm`).
"""

from abc import abstractmethod
from typing import Self

import torch
from torch.nn import functional

from modelmill.kernels import reference
from modelmill.kernels.gpu.way import Capability, Trial, Way, too_old
from modelmill.kernels.gpu.whole import Whole
from modelmill.kernels.weight import MOST_INPUTS

ROWS = 32
"""Rows come in multiples of it: `_int_mm` refuses 16 and fewer, cuSPARSELt what 16 does not divide."""


class IntegerWay(Way):
    precision = torch.float32
    numbers: torch.Tensor
    """As `sums` takes them."""
    scale: torch.Tensor
    """float32 [N]"""
    zero: torch.Tensor | None
    """int32 [N]"""

    @classmethod
    def of(cls, weight: Whole, bias: torch.Tensor | None) -> Self:
        zero = None if weight.zero is None else weight.zero.flatten().to(torch.int32)
        return cls(weight, bias, numbers=cls.packed(weight.numbers), scale=weight.scale.flatten(), zero=zero)

    @classmethod
    @abstractmethod
    def packed(cls, numbers: torch.Tensor) -> torch.Tensor:
        """int8 [N, K] as `sums` takes them."""

    @abstractmethod
    def sums(self, whole: torch.Tensor) -> torch.Tensor:
        """int8 [M, K], M a multiple of ROWS, times the numbers transposed: int32 [M, N]."""

    def product(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.shape[0]
        quantized, x_scale = reference.quantize(x.to(torch.float32), self.activation_scale)
        whole = quantized.to(torch.int8)
        sums = self.sums(functional.pad(whole, (0, 0, 0, -rows % ROWS)))[:rows]
        if self.zero is not None:
            sums = sums - whole.sum(dim=1, keepdim=True, dtype=torch.int32) * self.zero
        return sums.to(torch.float32) * self.scale * x_scale[:, None]


class Int8(IntegerWay):
    name = "int8"
    levels = tuple(range(-128, 128))
    trials = (Trial(24, 64), Trial(48, 512, zeros=True))

    @classmethod
    def refusal(cls, weight: Whole, capability: Capability) -> str | None:
        return too_old((7, 5), capability) or _misfit(weight, outputs=8, inputs=8)

    @classmethod
    def packed(cls, numbers: torch.Tensor) -> torch.Tensor:
        return numbers.contiguous()

    def sums(self, whole: torch.Tensor) -> torch.Tensor:
        return torch._int_mm(whole, self.numbers.t())


class TwoOfFour(IntegerWay):
    name = "int8 2:4"
    levels = tuple(range(-127, 128))
    two_of_four = True
    trials = (Trial(32, 64), Trial(96, 512))

    @classmethod
    def refusal(cls, weight: Whole, capability: Capability) -> str | None:
        if not weight.two_of_four:
            return "its zeros are not 2:4"
        return too_old((8, 0), capability) or _misfit(weight, outputs=32, inputs=32)

    @classmethod
    def packed(cls, numbers: torch.Tensor) -> torch.Tensor:
        packed: torch.Tensor = torch._cslt_compress(numbers.contiguous())
        return packed.view(numbers.shape[0], -1)  # its meta kernel reads N from here

    def sums(self, whole: torch.Tensor) -> torch.Tensor:
        sums: torch.Tensor = torch._cslt_sparse_mm(self.numbers, whole.t(), out_dtype=torch.int32)
        return sums.t().contiguous()  # as a layer's answers are


def _misfit(weight: Whole, *, outputs: int, inputs: int) -> str | None:
    """`outputs`, `inputs`: what has to divide the weight's."""
    if weight.group < weight.inputs:
        return f"a channel has {weight.scale.shape[1]} scales, one is possible"
    if weight.outputs % outputs or weight.inputs % inputs:
        return f"{weight.outputs} outputs and {weight.inputs} inputs, {outputs} and {inputs} have to divide them"
    return f"{weight.inputs} inputs, sums of more than {MOST_INPUTS} may not fit" if weight.inputs > MOST_INPUTS else None
