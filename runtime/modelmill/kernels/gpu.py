"""int8 times int8 on a GPU's tensor cores; each row of activations gets its own scale."""

import torch
from torch.nn import functional

INTEGER_ROWS, INTEGER_STEP = 32, 8
"""Smallest batch, and divisor of both channel counts."""


def fits(x: torch.Tensor, codes: torch.Tensor) -> bool:
    """Whether `integer_linear` can take codes int8 [N, K]."""
    return x.is_cuda and codes.shape[0] % INTEGER_STEP == 0 and codes.shape[1] % INTEGER_STEP == 0


def integer_linear(x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x [M, K] times codes [N, K] transposed, times scale [N], plus bias [N]; in the dtype of x."""
    rows = x.shape[0]
    largest = x.abs().amax(dim=1, keepdim=True).to(torch.float32)
    row_scale = (largest / 127).clamp_min(torch.finfo(torch.float32).tiny)
    quantised = (x.to(torch.float32) / row_scale).round_().to(torch.int8)
    # torch refuses products of 16 rows and fewer on a GPU.
    quantised = functional.pad(quantised, (0, 0, 0, max(0, INTEGER_ROWS - rows)))
    product = torch._int_mm(quantised, codes.t())[:rows]
    scaled = product.to(torch.float32) * row_scale * scale
    return (scaled if bias is None else scaled + bias).to(x.dtype)
