"""Block pruning: blocks of 16 or 4 output channels x 1 input are kept or dropped whole.

    score of a block = ||w_block||_2 / sqrt(weights in it)

A kernel computes on kept blocks with full vectors, which single zeros do not allow. The last block of outputs may be
smaller; dividing by the root of its size compares it fairly. An input is one channel at one place of a convolution's kernel.
Source: Gray, Radford, Kingma 2017, "GPU Kernels for Block-Sparse Weights"; the norm as in group lasso (Yuan, Lin 2006).
"""

import torch

from modelmill.compress.errors import CompressionError
from modelmill.compress.prune.masks import kept_count, largest

HEIGHTS = (16, 4)
"""Output channels in a block, as the kernels have them."""


def mask(weight: torch.Tensor, *, height: int, sparsity: float, scores: torch.Tensor | None = None) -> torch.Tensor:
    """bool, the weight's shape: of B blocks, B - round(sparsity * B) are kept.

    `scores` of the weight's shape and >= 0 (`gradient`, `wanda`) stand in for |w|."""
    of_blocks = block_scores(weight if scores is None else scores, height=height)
    kept = largest(of_blocks, keep=kept_count(of_blocks.numel(), sparsity=sparsity))
    return spread(kept, shape=tuple(weight.shape), height=height)


def block_scores(scores: torch.Tensor, *, height: int) -> torch.Tensor:
    """float32 [ceil(N / height), K] of [N, ...]: the root of the mean square in each block."""
    check_height(height)
    rows = scores.detach().flatten(1).float()
    missing = -rows.shape[0] % height
    padded = torch.cat([rows, rows.new_zeros(missing, rows.shape[1])])
    sizes = torch.full((len(padded) // height, 1), float(height), device=rows.device)
    sizes[-1:] -= missing
    norms: torch.Tensor = torch.linalg.vector_norm(padded.view(-1, height, rows.shape[1]), dim=1)
    return norms / sizes.sqrt()


def spread(blocks: torch.Tensor, *, shape: tuple[int, ...], height: int) -> torch.Tensor:
    """A value for each weight [N, ...] from one for each block [ceil(N / height), K]."""
    return blocks.repeat_interleave(height, 0)[: shape[0]].view(shape)


def check_height(height: int) -> None:
    if height < 1:
        raise CompressionError(f"height {height} of a block must be 1 or more; kernels have {' and '.join(map(str, HEIGHTS))}")
