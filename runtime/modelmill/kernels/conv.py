"""A convolution with a coded weight: `coded_conv2d`, and the operator `torch.ops.modelmill.coded_conv2d`.

As `modelmill.kernels.linear`, with rows of `h * w * C` inputs, channels last and padded to a multiple of 4 (`tiles.conv_rows`).
One activation scale for each sample. Images are read in NCHW or NHWC order, results are NHWC (channels last), without im2col.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from modelmill.compress.errors import CompressionError
from modelmill.kernels import native, reference, tiles
from modelmill.kernels.weight import Coded, Ready, fixed, is_plain

Optional = torch.Tensor | None


class Geometry(NamedTuple):
    """(height, width) of each."""

    kernel: Sequence[int]
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]

    def sizes(self, x: torch.Tensor) -> tuple[int, int]:
        """H' and W'. Raises CompressionError where the kernel does not fit into x."""
        if x.dim() != 4:
            raise CompressionError(f"x is {list(x.shape)}: a convolution takes [B, C, H, W]")
        (height, width), (down, right), (above, left), (skip, jump) = self
        if min(height, width, down, right, skip, jump) < 1 or min(above, left) < 0:
            raise CompressionError(f"{self} is not possible: padding is 0 or more, everything else 1 or more")
        rows = (x.shape[2] + 2 * above - skip * (height - 1) - 1) // down + 1
        columns = (x.shape[3] + 2 * left - jump * (width - 1) - 1) // right + 1
        if rows < 1 or columns < 1:
            raise CompressionError(f"x is {list(x.shape)}: a kernel {[*self.kernel]} does not fit into it")
        return rows, columns

    @property
    def in_rows(self) -> bool:
        """Windows of 3 x 3 pixels, each a pixel from the one before: neighbours share two thirds of their operands."""
        return tuple(self.kernel) == (3, 3) and tuple(self.stride) == tuple(self.dilation) == (1, 1)

    def inputs(self, channels: int) -> int:
        """Of a row of the weight."""
        return self.kernel[0] * self.kernel[1] * (channels + -channels % tiles.QUAD)


def coded_conv2d(
    x: torch.Tensor,
    codes: torch.Tensor,
    scale: torch.Tensor,
    levels: Optional,
    zero: Optional,
    bias: Optional,
    *,
    bits: int,
    outputs: int,
    kernel: Sequence[int],
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    activation_scale: float | None = None,
    residual: Optional = None,
    relu: bool = False,
) -> torch.Tensor:
    """x [B, C, H, W] with the weight [outputs, C, h, w]: [B, outputs, H', W'], channels last, of x's type.

    `residual` [B, outputs, H', W'] is added before `relu`. A sample with a value that is not finite gives NaN. Raises
    CompressionError where arguments do not fit together.
    """
    geometry = Geometry(kernel, stride, padding, dilation)
    if is_plain(x):
        weight = Ready(Coded(codes, scale, levels, zero, bias, bits, outputs, geometry.inputs(x.shape[1])))
        return convolve(x, weight, geometry, activation_scale, residual, relu)
    sizes = [[*size] for size in geometry]
    result: torch.Tensor = torch.ops.modelmill.coded_conv2d(
        x, codes, scale, levels, zero, bias, bits, outputs, *sizes, activation_scale, residual, relu
    )
    return result


def convolve(
    x: torch.Tensor, weight: Ready, geometry: Geometry, activation_scale: float | None, residual: Optional, relu: bool
) -> torch.Tensor:
    """`coded_conv2d` with a weight that was checked before; not for a trace."""
    coded = weight.weight
    height, width = geometry.sizes(x)
    if geometry.inputs(x.shape[1]) != coded.inputs:
        raise CompressionError(f"x is {list(x.shape)}: the weight takes {coded.inputs} inputs a window")
    scale = fixed(activation_scale)
    shape = (x.shape[0], coded.outputs, height, width)
    if residual is not None and (residual.shape != shape or residual.dtype != x.dtype):
        raise CompressionError(f"residual is {residual.dtype} {list(residual.shape)}: it has to be {x.dtype} {list(shape)}")
    values = x if x.dtype == torch.float32 else x.float()
    if weight.runs(x):
        out = torch.empty(shape, memory_format=torch.channels_last)
        _native(values, weight, geometry, scale, residual, relu, out)
    else:
        out = _reference(values, coded, geometry, activation_scale, shape)
        out = out if residual is None else out.add_(residual)
        out = out.relu_() if relu else out
    return out if x.dtype == torch.float32 else out.to(x.dtype)


def _native(
    x: torch.Tensor,
    weight: Ready,
    geometry: Geometry,
    scale: float,
    residual: Optional,
    relu: bool,
    out: torch.Tensor,
) -> None:
    last = x.is_contiguous(memory_format=torch.channels_last)
    x = x if last else x.contiguous()
    added = 0
    if residual is not None:
        residual = residual.float().contiguous(memory_format=torch.channels_last)
        added = residual.data_ptr()
    kernel, stride, padding, dilation = geometry
    image = (x.data_ptr(), *x.shape, *kernel, *stride, *padding, *dilation, last)
    rest = (scale, torch.get_num_threads(), out.data_ptr(), added, relu)
    native.chosen.conv(native.chosen.number, *weight.numbers, *image, *rest)


def _reference(
    x: torch.Tensor, weight: Coded, geometry: Geometry, activation_scale: float | None, shape: tuple[int, ...]
) -> torch.Tensor:
    whole, x_scale = reference.quantize(x, activation_scale)
    windows = reference.windows(whole, *geometry)
    x_scale = x_scale.repeat_interleave(windows.shape[1])
    out = reference.product(windows.flatten(0, 1), x_scale, *weight[:-1])
    return out.view(shape[0], *shape[2:], shape[1]).permute(0, 3, 1, 2)


def _operator(
    x: torch.Tensor,
    codes: torch.Tensor,
    scale: torch.Tensor,
    levels: Optional,
    zero: Optional,
    bias: Optional,
    bits: int,
    outputs: int,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    activation_scale: float | None,
    residual: Optional,
    relu: bool,
) -> torch.Tensor:
    geometry = Geometry(kernel, stride, padding, dilation)
    weight = Ready(Coded(codes, scale, levels, zero, bias, bits, outputs, geometry.inputs(x.shape[1])))
    return convolve(x, weight, geometry, activation_scale, residual, relu)


def _shape(
    x: torch.Tensor,
    codes: torch.Tensor,
    scale: torch.Tensor,
    levels: Optional,
    zero: Optional,
    bias: Optional,
    bits: int,
    outputs: int,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    activation_scale: float | None,
    residual: Optional,
    relu: bool,
) -> torch.Tensor:
    shape = (x.shape[0], outputs, *Geometry(kernel, stride, padding, dilation).sizes(x))
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


_NAME = "modelmill::coded_conv2d"
torch.library.define(
    _NAME,
    "(Tensor x, Tensor codes, Tensor scale, Tensor? levels, Tensor? zero, Tensor? bias, int bits, int outputs, int[] kernel, "
    "int[] stride, int[] padding, int[] dilation, float? activation_scale, Tensor? residual, bool relu) -> Tensor",
)
torch.library.impl(_NAME, "default", _operator)
torch.library.register_fake(_NAME, _shape)
