"""The products in plain torch: what the native module is checked against, and what runs where it is missing.

Activations become whole numbers: scale = largest / 127, x_q = round(x * (127 / largest)), half to even, for each row; or the
scale that calibration chose, cut off at -127 and 127. Then for each group g in ascending order, with exact sums

    total[m, n] = fma(float32(sum_k x_q[m, k] * (level[code[n, k]] - zero[n, g])), scale[n, g], total[m, n])
    out[m, n]   = total[m, n] * x_scale[m] + bias[n]

Equal to the native module but for the fma, which is done in float64 here and rounded twice: the last bit of a total may
differ. A row with a value that is not finite gives NaN.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional

from modelmill.kernels.tiles import QUAD, ROWS, unpack

LARGEST = 127
SMALLEST = 1e-36
"""Rows without a larger activation count as zeros: 127 over it would not be finite."""
DECODED = 1 << 15
"""Codes that are decoded at a time."""


def quantize(x: torch.Tensor, activation_scale: float | None) -> tuple[torch.Tensor, torch.Tensor]:
    """x float32 [M, ...] as whole numbers (in float32) and scales [M]."""
    flat = x.flatten(1)
    largest = flat.abs().amax(dim=1) if flat.shape[1] else flat.new_zeros(flat.shape[0])
    finite = largest.isfinite()
    # Divisions of two tensors: torch multiplies by the reciprocal where one is a number.
    most = torch.full_like(largest, LARGEST)
    if activation_scale is None:
        small = largest < SMALLEST
        scale = torch.where(small, 0.0, largest / most)
        inverse = torch.where(small, 0.0, most / largest)
    else:
        scale = torch.full_like(largest, activation_scale)
        inverse = torch.ones_like(scale) / scale
    whole = (flat * inverse[:, None]).clamp_(-LARGEST, LARGEST).round_()
    whole = torch.where(finite[:, None], whole, 0.0)
    return whole.view(x.shape), torch.where(finite, scale, float("nan"))


def product(
    whole: torch.Tensor,
    x_scale: torch.Tensor,
    codes: torch.Tensor,
    scale: torch.Tensor,
    levels: torch.Tensor | None,
    zero: torch.Tensor | None,
    bias: torch.Tensor | None,
    bits: int,
    outputs: int,
) -> torch.Tensor:
    """Whole numbers [M, K] with scales [M] times tiles of codes: [M, outputs]."""
    rows, inputs = whole.shape
    groups = scale.shape[1]
    grouped = whole.view(rows, groups, inputs // groups).transpose(0, 1).double()
    out = whole.new_empty(rows, outputs)
    step = max(ROWS, DECODED // max(1, inputs) // ROWS * ROWS)
    for start in range(0, outputs, step):
        stop = min(start + step, outputs)
        weights = decode(codes, levels, bits=bits, outputs=outputs, inputs=inputs, start=start, stop=stop)
        weights = weights.view(stop - start, groups, -1).transpose(0, 1)
        first, last = start // ROWS, -(-stop // ROWS)
        if zero is not None:
            weights = weights - _of_rows(zero[first:last], stop - start)[:, :, None]
        sums = torch.bmm(grouped, weights.transpose(1, 2).double()).float()
        total = whole.new_zeros(rows, stop - start)
        for group, factor in enumerate(_of_rows(scale[first:last], stop - start)):
            total = (sums[group].double() * factor.double() + total.double()).float()
        out[:, start:stop] = total * x_scale[:, None]
    return out if bias is None else out.add_(bias)


def _of_rows(tiled: torch.Tensor, rows: int) -> torch.Tensor:
    """Tiles [tiles, G, 16] as [G, rows]."""
    return tiled.transpose(0, 1).flatten(1)[:, :rows]


def decode(
    codes: torch.Tensor, levels: torch.Tensor | None, *, bits: int, outputs: int, inputs: int, start: int, stop: int
) -> torch.Tensor:
    """The levels int16 of rows `start` to `stop`."""
    part = unpack(codes, bits=bits, rows=outputs, inputs=inputs, start=start, stop=stop)
    if levels is not None:
        return levels[part.long()].short()
    return (part.view(torch.int8) if bits == 8 else part).short()


def windows(
    whole: torch.Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> torch.Tensor:
    """An image's windows [B, L, h*w*C4], channels last and padded to a multiple of 4."""
    batch, channels = whole.shape[:2]
    padded = functional.pad(whole, (0, 0, 0, 0, 0, -channels % QUAD))
    columns = functional.unfold(padded, tuple(kernel), tuple(dilation), tuple(padding), tuple(stride))
    split = columns.view(batch, padded.shape[1], kernel[0] * kernel[1], -1)
    return split.permute(0, 3, 2, 1).flatten(2)
