"""Binary: the sign of each weight and one magnitude, w ~ mean|w| * sign(w), sign(0) = +1.

The magnitude is the mean of |w| over the channel (or tensor, or group): the best one for these signs in least squares, so the
squared error is the sum of (|w| - mean|w|)^2, and |w - that| <= max |w| - the least of |w|. There is no 0 on this grid: it cannot
follow pruning, and a group of zeros gets the magnitude 2^-100. Rastegari et al. 2016, "XNOR-Net" (its weights; activations
are those of the layer).
"""

from dataclasses import dataclass

import torch

from modelmill.compress.codes import Codes
from modelmill.compress.grids.grid import Granularity, check_granularity, for_each_row, grouped

NAME = "Binary"
NOTHING = 2.0**-100


@dataclass(frozen=True, slots=True, kw_only=True)
class Binary:
    granularity: Granularity = "Channel"
    group_size: int = 64

    def __post_init__(self) -> None:
        check_granularity(self.granularity, self.group_size)

    @property
    def holds_zero(self) -> bool:
        return False

    @property
    def quick(self) -> bool:
        return True

    @property
    def clips(self) -> bool:
        return False

    def encode(self, weight: torch.Tensor, *, name: str) -> Codes:
        values = grouped(weight, granularity=self.granularity, group_size=self.group_size, name=name)
        outputs = weight.shape[0]
        return Codes(
            grid=NAME,
            codes=(values >= 0).to(torch.uint8).view(outputs, -1),
            bits=1,
            levels=torch.tensor([-1, 1], dtype=torch.int8, device=values.device),
            scale=for_each_row(values.abs().mean(dim=2).clamp_min(NOTHING), outputs),
            shape=tuple(weight.shape),
        )
