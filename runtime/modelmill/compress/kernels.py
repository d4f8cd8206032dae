"""Products with int8 weights that never hold the dense weight: the scales are applied to the result instead.

Three ways, chosen by where and how many rows:
- `packed_linear`: torch's own CPU kernel; activations in bfloat16, sums in float32. Fastest for few rows.
- `tiled_linear`, `tiled_conv2d`: a slice of output channels at a time becomes float, at most half of a convolution's
  weight and a quarter of a linear one's. Exact up to the order of sums, on any device.
- `integer_linear`: int8 times int8 on a GPU's tensor cores; each row of activations gets its own scale.

oneDNN's u8 x s8 operators are not used: without VNNI instructions their sums saturate silently (16-bit), and one
scale for a whole batch would make a row's answer depend on its neighbours in the batch.
"""

import functools

import torch
from torch.nn import functional

PACKED_ROWS = 16
"""Up to here the packed kernel is faster than tiles (measured with 1 thread on AVX2, 256 to 4,096 channels)."""
PACKED_STEP = 16
"""The packed kernel reads this many weights at a time, past the end of a row that is not a multiple (it crashes)."""
TILE_ELEMENTS = 1 << 18
WHOLE_ELEMENTS = 1 << 12
"""A convolution's weight of up to 16 KiB as floats is one tile: its activations are larger anyway."""
INTEGER_ROWS, INTEGER_STEP = 32, 8
"""Smallest batch and divisor of both channel counts for the GPU's int8 product."""


def int8_linear(x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x [M, K] times codes [N, K] transposed, times scale [N], plus bias [N]."""
    outputs, inputs = codes.shape
    if x.is_cuda and inputs % INTEGER_STEP == 0 and outputs % INTEGER_STEP == 0:
        return integer_linear(x, codes, scale, bias)
    if not x.is_cuda and x.shape[0] <= PACKED_ROWS and inputs % PACKED_STEP == 0:
        return packed_linear(x, codes, scale, bias)
    return tiled_linear(x, codes, scale, bias)


def packed_linear(x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    # The kernel wants scales in bfloat16, too coarse for them: it gets ones, and the true ones come after.
    product = torch.ops.aten._weight_int8pack_mm(x.to(torch.bfloat16).contiguous(), codes, _ones(codes.shape[0]))
    return _scaled(product.to(x.dtype), scale, bias)


def tiled_linear(x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    outputs, inputs = codes.shape
    step = max(1, min(outputs // 4, max(16, TILE_ELEMENTS // max(1, inputs))))
    product = x.new_empty(x.shape[0], outputs)
    for start in range(0, outputs, step):
        tile = codes[start : start + step].to(x.dtype)
        torch.mm(x, tile.t(), out=product[:, start : start + step])
    return _scaled(product, scale, bias)


def integer_linear(x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    rows = x.shape[0]
    largest = x.abs().amax(dim=1, keepdim=True).to(torch.float32)
    row_scale = (largest / 127).clamp_min(torch.finfo(torch.float32).tiny)
    quantised = (x.to(torch.float32) / row_scale).round_().to(torch.int8)
    # torch refuses products of 16 rows and fewer on a GPU.
    quantised = functional.pad(quantised, (0, 0, 0, max(0, INTEGER_ROWS - rows)))
    product = torch._int_mm(quantised, codes.t())[:rows]
    return _scaled((product.to(torch.float32) * row_scale).to(x.dtype), scale, bias)


def tiled_conv2d(
    x: torch.Tensor,
    codes: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    stride: tuple[int, ...],
    padding: tuple[int, ...] | str,
    dilation: tuple[int, ...],
) -> torch.Tensor:
    """Convolution of x [B, C, H, W] or [C, H, W] with codes [N, C, h, w], times scale [N], plus bias [N]."""
    outputs = codes.shape[0]
    step = max(1, min(outputs // 2, max(16, TILE_ELEMENTS // max(1, codes[0].numel()))))
    tiles = (codes,) if codes.numel() <= WHOLE_ELEMENTS else codes.split(step)
    parts = [functional.conv2d(x, tile.to(x.dtype), None, stride, padding, dilation) for tile in tiles]
    product = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-3)
    return _scaled(product, scale[:, None, None], None if bias is None else bias[:, None, None])


def _scaled(product: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    scale = scale.to(product.dtype)
    return product.mul_(scale) if bias is None else torch.addcmul(bias, product, scale)


@functools.cache
def _ones(count: int) -> torch.Tensor:
    with torch.inference_mode(False):  # so that whoever comes later may use them under any mode
        return torch.ones(count, dtype=torch.bfloat16)
