"""Products with int8 weights that never hold the dense weight: one row of scales is applied to the result instead.

Three ways, chosen by where and how many rows:
- `packed_linear`: torch's own CPU kernel; activations in bfloat16, sums in float32. Fastest for few rows.
- `tiled_linear`, `tiled_conv2d`: a slice of output channels at a time becomes float, at most half of a convolution's
  weight and a quarter of a linear one's. Exact up to the order of sums, on any device.
- `integer_linear`: int8 times int8 on a GPU's tensor cores; each row of activations gets its own scale.

oneDNN's u8 x s8 operators are not used: without VNNI instructions their sums saturate silently (16-bit), and one
scale for a whole batch would make a row's answer depend on its neighbours in the batch.
"""

import torch
from torch.nn import functional

PACKED_ROWS = 16
"""Up to here the packed kernel is faster than tiles (measured with 1 thread on AVX2, 256 to 4,096 channels)."""
PACKED_STEP = 16
"""The packed kernel reads this many weights at a time, past the end of a row that is not a multiple (it crashes)."""
TILE_ELEMENTS = 1 << 18
INTEGER_ROWS, INTEGER_STEP = 32, 8
"""Smallest batch and divisor of both channel counts for the GPU's int8 product."""


def int8_linear(x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """x [M, K] times codes [N, K] transposed, times scale [N]."""
    outputs, inputs = codes.shape
    if x.is_cuda and inputs % INTEGER_STEP == 0 and outputs % INTEGER_STEP == 0:
        return integer_linear(x, codes, scale)
    if not x.is_cuda and x.shape[0] <= PACKED_ROWS and inputs % PACKED_STEP == 0:
        return packed_linear(x, codes, scale)
    return tiled_linear(x, codes, scale)


def packed_linear(x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    # The kernel wants scales in bfloat16, too coarse for them: it gets ones, and the true ones come after.
    ones = scale.new_ones(scale.shape, dtype=torch.bfloat16)
    product: torch.Tensor = torch.ops.aten._weight_int8pack_mm(x.to(torch.bfloat16).contiguous(), codes, ones)
    return product.to(x.dtype).mul_(scale.to(x.dtype))


def tiled_linear(x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    outputs, inputs = codes.shape
    step = max(1, min(outputs // 4, max(16, TILE_ELEMENTS // max(1, inputs))))
    product = x.new_empty(x.shape[0], outputs)
    for start in range(0, outputs, step):
        tile = codes[start : start + step].to(x.dtype)
        torch.mm(x, tile.t(), out=product[:, start : start + step])
    return product.mul_(scale.to(x.dtype))


def integer_linear(x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    rows = x.shape[0]
    largest = x.abs().amax(dim=1, keepdim=True).to(torch.float32)
    row_scale = (largest / 127).clamp_min(torch.finfo(torch.float32).tiny)
    quantised = (x.to(torch.float32) / row_scale).round_().to(torch.int8)
    # torch refuses products of 16 rows and fewer on a GPU.
    quantised = functional.pad(quantised, (0, 0, 0, max(0, INTEGER_ROWS - rows)))
    product = torch._int_mm(quantised, codes.t())[:rows]
    return (product.to(torch.float32) * row_scale).mul_(scale).to(x.dtype)


def tiled_conv2d(
    x: torch.Tensor,
    codes: torch.Tensor,
    scale: torch.Tensor,
    *,
    stride: tuple[int, ...],
    padding: tuple[int, ...] | str,
    dilation: tuple[int, ...],
) -> torch.Tensor:
    """Convolution of x [B, C, H, W] with codes [N, C, h, w], times scale [N]."""
    outputs = codes.shape[0]
    step = max(1, min(outputs // 2, max(16, TILE_ELEMENTS // max(1, codes[0].numel()))))
    parts = [functional.conv2d(x, tile.to(x.dtype), None, stride, padding, dilation) for tile in codes.split(step)]
    return torch.cat(parts, dim=-3).mul_(scale.to(x.dtype)[:, None, None])
