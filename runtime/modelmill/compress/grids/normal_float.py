"""NormalFloat: the quantiles of a Gaussian, since that is how trained weights are spread; 4 bits of it are NF4.

    w ~ scale * level, scale = max |w| of the group / 127, levels = round(127 * q_i), |w - that| <= scale * (half the widest gap)

The q_i: with d = (1 / 2^(b+1) + 1 / (2^(b+1) - 2)) / 2, the positive ones are the Gaussian quantiles of 2^(b-1) equally spaced
probabilities from 1 - d down to, but without, 1/2; the negative ones those of one fewer, from d up; and 0 between; all over
the largest. So 0, 1 and -1 are on the grid. Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs".
There each value has 32 bits; here 1/127 is the finest step, as everywhere.
"""

from dataclasses import dataclass

import torch

from modelmill.compress.codes import Codes
from modelmill.compress.grids.codebook import magnitudes, on_codebook
from modelmill.compress.grids.grid import Granularity, check_granularity, check_whole, grouped

NAME = "NormalFloat"


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalFloat:
    bits: int = 4
    granularity: Granularity = "Group"
    group_size: int = 64

    def __post_init__(self) -> None:
        check_whole("bits", self.bits, least=2, most=4)
        check_granularity(self.granularity, self.group_size)

    @property
    def holds_zero(self) -> bool:
        return True

    @property
    def quick(self) -> bool:
        return True

    @property
    def clips(self) -> bool:
        return False

    def encode(self, weight: torch.Tensor, *, name: str) -> Codes:
        values = grouped(weight, granularity=self.granularity, group_size=self.group_size, name=name)
        return on_codebook(
            NAME,
            values,
            centres=quantiles(self.bits),
            unit=magnitudes(values),
            size=1 << self.bits,
            shape=tuple(weight.shape),
        )


def quantiles(bits: int) -> torch.Tensor:
    """float64 [2 ** bits], ascending from -1 to 1."""
    wide = 1 << (bits + 1)
    most, half = 1 - (1 / wide + 1 / (wide - 2)) / 2, 1 << (bits - 1)
    positive, negative = _upper(most, half).flip(0), -_upper(most, half - 1)
    return torch.cat([negative, positive.new_zeros(1), positive]) / float(positive[-1])


def _upper(most: float, count: int) -> torch.Tensor:
    """Gaussian quantiles of `count` probabilities from `most` down to, but without, 1/2."""
    found: torch.Tensor = torch.special.ndtri(torch.linspace(most, 0.5, count + 1, dtype=torch.float64)[:-1])
    return found
