"""A mask for each sub-block, trained with the weights: block sparsity that a kernel can use, found while training.

    computed with:  w'[n, k] = w[n, k] * b[j, k]     b = 1[m > 0], j = n // 16
    gradients:      dL/dm[j, k] = sum over the 16 rows n of block j of dL/dw'[n, k] * w[n, k]

One variable m for each block of 16 (or 4) outputs x 1 input, starting at the root mean square of the block over the largest
of the layer; all else is as for the binary mask (`binary`). The sum makes a block stay for what its weights do
together, where pruning single weights and rounding to blocks afterwards would drop what mattered.
"""

from collections.abc import Sequence

from torch import nn

from modelmill.compress.prune.masks import Scope
from modelmill.compress.prune.online.binary import BinaryMask
from modelmill.compress.prune.schedules import Schedule


class Structured(BinaryMask):
    """Trains a mask for each block of `height` outputs x 1 input; everything else as `BinaryMask`."""

    def __init__(
        self,
        module: nn.Module,
        names: Sequence[str],
        *,
        schedule: Schedule | None = None,
        penalty: float = 0.0,
        scope: Scope = "Layer",
        height: int = 16,
    ) -> None:
        super().__init__(module, names, schedule=schedule, penalty=penalty, scope=scope, height=height)
