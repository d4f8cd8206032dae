"""Dynamic range: sign and magnitude, w ~ (-1)^s * m * scale with m from 0 to 2^(b-1) - 1, |w - that| <= scale / 2.

scale = max |w| / (2^(b-1) - 1) for each channel (or tensor, or group). The code is s * 2^(stored - 1) + m, where `stored` is
what b bits take in the file; the levels are its meaning. Minus zero is never written, and would mean 0. The values are those
of the symmetric uniform grid, only the codes differ. Activations get their range when they come, a scale for each token,
which every product here does anyway. The form is that of "dynamic range quantization" in the literature on mobile inference:
Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient inference".
"""

from dataclasses import dataclass

import torch

from modelmill.compress.codes import Codes
from modelmill.compress.grids.grid import Granularity, check_granularity, check_whole, for_each_row, grouped, safe_scale
from modelmill.compress.grids.uniform import width

NAME = "DynamicRange"


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicRange:
    bits: int = 8
    granularity: Granularity = "Channel"
    group_size: int = 64

    def __post_init__(self) -> None:
        check_whole("bits", self.bits, least=2, most=8)
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
        most, sign = (1 << (self.bits - 1)) - 1, 1 << (width(self.bits) - 1)
        scale = safe_scale(values.abs().amax(dim=2), steps=most)
        numbers = (values / scale[..., None]).round_().clamp_(-most, most)
        codes = numbers.abs().add_((numbers < 0) * sign).to(torch.uint8)
        outputs = weight.shape[0]
        magnitudes = torch.arange(sign, dtype=torch.int8, device=values.device)
        return Codes(
            grid=NAME,
            codes=codes.view(outputs, -1),
            bits=width(self.bits),
            levels=torch.cat([magnitudes, -magnitudes]),
            scale=for_each_row(scale, outputs),
            shape=tuple(weight.shape),
            facts={} if self.bits == width(self.bits) else {"numberBits": self.bits},
        )
