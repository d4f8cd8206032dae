"""Ternary: minus, nothing or plus one magnitude, w ~ a * t with t = sign(w) where |w| > D, else 0.

    D = 0.7 * mean|w|,  a = mean of the |w| above D        |w - a * t| <= max(D, max|w| - a, a - D)

D is close to the best threshold for uniform and Gaussian weights, a the best magnitude for a given D, both in least squares.
For each channel (or tensor, or group); one of zeros stays zero. Li and Liu 2016, "Ternary Weight Networks".
"""

from dataclasses import dataclass

import torch

from modelmill.compress.codes import Codes
from modelmill.compress.grids.grid import Granularity, check_granularity, for_each_row, grouped, safe_scale
from modelmill.compress.grids.uniform import to_codes

NAME = "Ternary"
THRESHOLD = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Ternary:
    granularity: Granularity = "Channel"
    group_size: int = 64

    def __post_init__(self) -> None:
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
        magnitude = values.abs()
        kept = magnitude > THRESHOLD * magnitude.mean(dim=2, keepdim=True)
        mean = (magnitude * kept).sum(dim=2) / kept.sum(dim=2).clamp_min(1)
        outputs = weight.shape[0]
        numbers = (values.sign() * kept).to(torch.int8).view(outputs, -1)
        scale = for_each_row(safe_scale(mean, steps=1), outputs)
        return to_codes(NAME, numbers, bits=2, scale=scale, shape=tuple(weight.shape))
