"""N:M sparsity: of every M inputs in a row, N are kept; 2:4 is what hardware knows.

    in each group w[n, m*i .. m*i + M - 1] of the row [N, K], channels last: the N of the largest score are kept

The score is |w|, or one that is given, such as Wanda's. Where M does not divide K, the last group is smaller and keeps up to N.
Sources: Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks" (2:4); Zhou et al. 2021, "Learning N:M
Fine-grained Structured Sparse Neural Networks From Scratch".
"""

import torch
from torch.nn import functional

from modelmill.compress.codes import rows_of, weight_of
from modelmill.compress.errors import CompressionError
from modelmill.compress.prune.masks import largest_of_rows


def mask(weight: torch.Tensor, *, n: int = 2, m: int = 4, scores: torch.Tensor | None = None) -> torch.Tensor:
    """bool, the weight's shape: N of each M are kept, the first ones among equals. `scores` as for `blocks.mask`."""
    if not 1 <= n <= m:
        raise CompressionError(f"{n}:{m} must keep at least 1 and at most {m} of {m}")
    rows = rows_of((weight if scores is None else scores).detach().abs())
    groups = functional.pad(rows, (0, -rows.shape[1] % m), value=-1.0).unflatten(1, (-1, m))
    kept = largest_of_rows(groups, keep=n).flatten(1)[:, : rows.shape[1]]
    return weight_of(kept.contiguous(), weight.shape)
