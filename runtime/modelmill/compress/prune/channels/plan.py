"""How many channels each group keeps: the same fraction of each, or those that matter most for what they cost.

Greedy: of all groups, the one goes on losing channels whose next step has the least

    sum of the importance of its channels / multiplications saved

until the model takes few enough. A step is `round_to` channels; in a group that has no more than that, half of them.
"""

from collections.abc import Mapping

import torch

from modelmill.compress.errors import CompressionError
from modelmill.compress.prune.channels.cost import Ledger


def greedy(ledger: Ledger, scores: Mapping[str, torch.Tensor], *, macs: float, round_to: int) -> dict[str, int]:
    """How many channels of each group are left; `scores` are sorted, the largest first."""
    left = {root: len(values) for root, values in scores.items()}
    whole = ledger.total()
    while whole / ledger.total() < macs:
        best: tuple[float, str, int] | None = None
        for root, values in scores.items():
            # The step is of the size at the start, so that a group that may be halved is not halved again.
            step = (left[root] % round_to if len(values) > round_to else 0) or step_of(len(values), round_to)
            if left[root] - step < step_of(len(values), round_to):
                continue
            price = float(values[left[root] - step : left[root]].sum()) / max(1.0, ledger.saving(root, step))
            if best is None or price < best[0]:
                best = (price, root, step)
        if best is None:
            raise CompressionError(
                f"macs {macs} cannot be reached: without more than {whole / ledger.total():.2f} all that is left is "
                f"{round_to} channels in each group; ask for less, or a smaller round_to"
            )
        left[best[1]] -= best[2]
        ledger.remove(best[1], best[2])
    return left


def step_of(channels: int, round_to: int) -> int:
    """How many channels go at a time, and the fewest that stay."""
    return round_to if channels > round_to else channels // 2


def rounded(channels: int, *, ratio: float, round_to: int) -> int:
    """What is left of so many channels: the multiple of the step that is nearest to the fraction, at least one step."""
    step = step_of(channels, round_to)
    return min(channels, max(1, round(channels * (1 - ratio) / step)) * step)
