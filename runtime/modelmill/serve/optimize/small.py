"""Convolutions of images with fewer pixels than the kernel has taps, as late layers have them when the input is small.

Most taps lie in the padding then, where kernels multiply zeros. As one product with a dense matrix there are 4 of 9
multiplications for 3x3 on 2x2 pixels, and 1 of 9 on one pixel. The matrix is 16/9 and 1/9 of the weight then. Half of the
time of such a convolution of 512 channels and 32 rows, and an eighth of ResNet-18's on 3x64x64 (AVX2, one thread).
"""

import itertools
import math
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from modelmill.compress.graph.tensors import Inputs
from modelmill.compress.graph.trace import Leaf, customised

Size = tuple[int, ...]
WORTH_IT = 1 << 14
"""Weights; below, calling the product costs what it saves."""
MOST_MEMORY = 2
"""Times the weight's."""


def image_sizes(module: nn.Module, inputs: Inputs) -> dict[str, Size]:
    """Height and width of what each convolution is called on, by path; () where calls differ. Runs the module once."""
    sizes: dict[str, Size] = {}
    handles = [
        layer.register_forward_pre_hook(lambda _, given, path=path: _note(sizes, path, given))
        for path, layer in module.named_modules()
        if type(layer) is nn.Conv2d
    ]
    module(*inputs)
    for handle in handles:
        handle.remove()
    return sizes


def _note(sizes: dict[str, Size], path: str, given: tuple[torch.Tensor, ...]) -> None:
    size = tuple(given[0].shape[2:]) if given else ()
    sizes[path] = size if sizes.get(path, size) == size else ()


def narrow(module: nn.Module, sizes: Mapping[str, Size]) -> int:
    """Replaces convolutions of small images; says how many."""
    small = {path: layer for path, size in sizes.items() if (layer := _small(module.get_submodule(path), size)) and path}
    for path, layer in small.items():
        module.set_submodule(path, layer)
    return len(small)


def _small(layer: nn.Module, size: Size) -> "SmallConv2d | None":
    return SmallConv2d(layer, size=size) if isinstance(layer, nn.Conv2d) and _pays(layer, size) else None


def _pays(layer: nn.Conv2d, size: Size) -> bool:
    """Of the exact type: a subclass may use its weight in ways that nobody here knows."""
    plain = type(layer) is nn.Conv2d and layer.groups == 1 and layer.padding_mode == "zeros" and not customised(layer)
    if not plain or isinstance(layer.padding, str) or len(size) != 2 or layer.weight.numel() < WORTH_IT:
        return False
    taps, pixels, out = math.prod(layer.kernel_size), math.prod(size), math.prod(_taps(layer, size)[0])
    return pixels < taps and pixels * out <= MOST_MEMORY * taps


class SmallConv2d(Leaf):
    """For inference. x [N, C, H, W] of the size that it was built for; on other images it is the plain convolution."""

    product: nn.Linear
    """[pixels in * channels in] to [pixels out * channels out]"""

    def __init__(self, layer: nn.Conv2d, *, size: Size) -> None:
        super().__init__()
        assert not isinstance(layer.padding, str)
        self._geometry = (layer.stride, layer.padding, layer.dilation)
        self._shape, self._size = layer.weight.shape, size
        self._out, self._taps = _taps(layer, size)
        pixels = self._out[0] * self._out[1]
        blocks = layer.weight.new_zeros(pixels, self._shape[0], size[0] * size[1], self._shape[1])
        for out, pixel, row, column in self._taps:
            blocks[out, :, pixel] = layer.weight[:, :, row, column]
        matrix = blocks.flatten(2).flatten(0, 1)
        self.product = nn.Linear(matrix.shape[1], matrix.shape[0], bias=layer.bias is not None, device="meta")
        self.product.weight = nn.Parameter(matrix, requires_grad=False)
        if layer.bias is not None:
            self.product.bias = nn.Parameter(layer.bias.detach().repeat(pixels), requires_grad=False)
        # The matrix has all of the weight, unless some tap lies in the padding for every pixel.
        complete = len({tap[2:] for tap in self._taps}) == self._shape[2] * self._shape[3]
        self._weight = None if complete else layer.weight.detach()

    def extra_repr(self) -> str:
        return f"{self._shape[1]}, {self._shape[0]}, kernel_size={tuple(self._shape[2:])}, image={self._size}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dim() != 4 or x.shape[2:] != self._size:
            bias = None if self.product.bias is None else self.product.bias[: self._shape[0]]
            return functional.conv2d(x, self._plain(), bias, *self._geometry)
        # In channels-last both changes of dimensions are views.
        pixels: torch.Tensor = self.product(x.permute(0, 2, 3, 1).flatten(1))
        return pixels.view(-1, *self._out, self._shape[0]).permute(0, 3, 1, 2)

    def _plain(self) -> torch.Tensor:
        if self._weight is None:
            blocks = self.product.weight.detach().view(-1, self._shape[0], self._size[0] * self._size[1], self._shape[1])
            weight = blocks.new_empty(self._shape).to(memory_format=torch.channels_last)
            for out, pixel, row, column in self._taps:
                weight[:, :, row, column] = blocks[out, :, pixel]
            self._weight = weight
        return self._weight


def _taps(layer: nn.Conv2d, size: Size) -> tuple[Size, list[tuple[int, int, int, int]]]:
    """The size of the result, and each (pixel out, pixel in, row and column of the kernel) that is not padding."""
    assert not isinstance(layer.padding, str)
    out: list[int] = []
    axes: list[list[tuple[int, int, int]]] = []
    axis = zip(size, layer.kernel_size, layer.stride, layer.padding, layer.dilation, strict=True)
    for length, kernel, step, pad, spread in axis:
        out.append((length + 2 * pad - spread * (kernel - 1) - 1) // step + 1)
        places = itertools.product(range(out[-1]), range(kernel))
        taps = ((place, place * step + tap * spread - pad, tap) for place, tap in places)
        axes.append([(place, pixel, tap) for place, pixel, tap in taps if 0 <= pixel < length])
    pairs = itertools.product(*axes)
    return tuple(out), [(p * out[1] + q, i * size[1] + j, row, column) for (p, i, row), (q, j, column) in pairs]
