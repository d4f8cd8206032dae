"""Convolutions with int8 blocks: an output pixel is a row of activations, whose inputs lie around it in the image.

The image becomes int8 with a border of zeros, channels last; the product of `products.block_linear` then picks inputs by
their place in it, so no image is unrolled and no row of the weight written out. One scale for each sample: an answer does
not depend on the others of the batch. The operator is torch.ops.modelmill.block_conv2d.
"""

import torch

from modelmill.kernels import blocks, integers, products
from modelmill.kernels.blocks import Blocks
from modelmill.kernels.products import block_numbers, fits_bias, fits_blocks, native


def block_conv2d(
    x: torch.Tensor,
    weight: Blocks,
    bias: torch.Tensor | None = None,
    *,
    kernel: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] | str = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    activation_scale: float | None = None,
) -> torch.Tensor:
    """Convolution of x [B, C, H, W] or [C, H, W] with int8 blocks of rows [N, h * w * C]: [B, N, H', W'], channels last.

    Activations have one scale for each sample. `padding` may be "valid" or "same". Raises ValueError for tensors that do
    not fit each other, and for float blocks: write their rows out.
    """
    if x.dim() not in (3, 4) or x.shape[-3] * kernel[0] * kernel[1] != weight.inputs:
        raise ValueError(f"x: {list(x.shape)} with a kernel of {list(kernel)} does not fit the weight's {weight.inputs} inputs")
    images = (x if x.dim() == 4 else x[None]).to(torch.float32)
    border = _border(padding, kernel, dilation)
    parts = (weight.values, weight.index, weight.starts, weight.scale, bias, weight.outputs)
    settings = (list(kernel), list(stride), border, list(dilation), activation_scale)
    function = torch.ops.modelmill.block_conv2d if torch.compiler.is_compiling() else _block_conv2d
    y: torch.Tensor = function(images, *parts, *settings)
    return (y if x.dim() == 4 else y[0]).to(x.dtype)


def _border(padding: tuple[int, int] | str, kernel: tuple[int, int], dilation: tuple[int, int]) -> list[int]:
    """Zeros above, below, left and right."""
    if padding == "valid":
        return [0, 0, 0, 0]
    if isinstance(padding, str):
        both = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
        return [both[0] // 2, both[0] - both[0] // 2, both[1] // 2, both[1] - both[1] // 2]
    return [padding[0], padding[0], padding[1], padding[1]]


def _block_conv2d(
    x: torch.Tensor,
    values: torch.Tensor,
    index: torch.Tensor,
    starts: torch.Tensor,
    scale: torch.Tensor | None,
    bias: torch.Tensor | None,
    outputs: int,
    kernel: list[int],
    stride: list[int],
    border: list[int],
    dilation: list[int],
    activation_scale: float | None = None,
) -> torch.Tensor:
    samples, channels, height, width = x.shape
    inputs = kernel[0] * kernel[1] * channels
    weight = Blocks(values=values, index=index, starts=starts, scale=scale, outputs=outputs, inputs=inputs)
    fits_blocks(weight)
    if scale is None:
        raise ValueError("scale: float blocks have no convolution of their own; write their rows out")
    fits_bias(bias, outputs)
    if products.ISA == "reference" or not x.is_cpu:
        return _conv_reference(x, weight, bias, kernel, stride, border, dilation, activation_scale)
    y = _conv_result(x, outputs, kernel, stride, border, dilation)
    x = x.contiguous(memory_format=torch.channels_last)
    native.block_conv2d(
        *block_numbers(weight),
        0 if bias is None else bias.data_ptr(),
        y.data_ptr(),
        x.data_ptr(),
        *(samples, channels, height, width),
        *(kernel[0], kernel[1], stride[0], stride[1], dilation[0], dilation[1]),
        *(border[0], border[2], border[0] + height + border[1], border[2] + width + border[3]),
        torch.get_num_threads(),
        products.LEVELS[products.ISA],
        activation_scale or 0.0,
    )
    return y


def _conv_result(
    x: torch.Tensor, outputs: int, kernel: list[int], stride: list[int], border: list[int], dilation: list[int]
) -> torch.Tensor:
    sides = []
    for side in (0, 1):
        room = x.shape[2 + side] + border[2 * side] + border[2 * side + 1] - dilation[side] * (kernel[side] - 1) - 1
        if room < 0:
            raise ValueError(f"x: {list(x.shape)} is smaller than the kernel {kernel}")
        sides.append(room // stride[side] + 1)
    # Made as rows of channels: an empty tensor in channels last would be taken for contiguous where a side is 1.
    return x.new_empty(x.shape[0], *sides, outputs).permute(0, 3, 1, 2)


def _conv_reference(
    x: torch.Tensor,
    weight: Blocks,
    bias: torch.Tensor | None,
    kernel: list[int],
    stride: list[int],
    border: list[int],
    dilation: list[int],
    activation_scale: float | None,
) -> torch.Tensor:
    codes, step = integers.quantize_rows(x.flatten(1), activation_scale)
    image = torch.nn.functional.pad(codes.view(x.shape).double(), (border[2], border[3], border[0], border[1]))
    y = _conv_result(x, weight.outputs, kernel, stride, border, dilation)
    tile = max(1, weight.outputs // 4)
    for start in range(0, weight.outputs, tile):
        stop = min(weight.outputs, start + tile)
        rows = blocks.decode(weight, start, stop, scaled=False).double()
        part = rows.view(stop - start, *kernel, x.shape[1]).permute(0, 3, 1, 2)
        sums = torch.nn.functional.conv2d(image, part, None, tuple(stride), 0, tuple(dilation))
        assert weight.scale is not None
        # Whole numbers, but a convolution through a transform may leave crumbs.
        y[:, start:stop] = sums.round().float() * weight.scale[start:stop, None, None] * step[:, None, None, None]
    return y if bias is None else y.add_(bias[:, None, None])


def _register() -> torch.library.Library:
    library = torch.library.Library("modelmill", "FRAGMENT")
    tensors = "Tensor x, Tensor values, Tensor index, Tensor starts, Tensor? scale, Tensor? bias, int outputs"
    where = "int[] kernel, int[] stride, int[] border, int[] dilation, float? activation_scale=None"
    library.define(f"block_conv2d({tensors}, {where}) -> Tensor")
    library.impl("block_conv2d", _block_conv2d, "CompositeExplicitAutograd")
    torch.library.register_fake("modelmill::block_conv2d", _fake_conv, lib=library)
    return library


def _fake_conv(
    x: torch.Tensor,
    values: torch.Tensor,
    index: torch.Tensor,
    starts: torch.Tensor,
    scale: torch.Tensor | None,
    bias: torch.Tensor | None,
    outputs: int,
    kernel: list[int],
    stride: list[int],
    border: list[int],
    dilation: list[int],
    activation_scale: float | None = None,
) -> torch.Tensor:
    return _conv_result(x, outputs, kernel, stride, border, dilation)


_LIBRARY = _register()
