"""A linear layer with a coded weight: `coded_linear`, and the operator `torch.ops.modelmill.coded_linear`.

Outside of a trace the function goes straight to the native module (a few microseconds), and a layer, whose weight stays what it
is, calls `multiply`; in `torch.export` and `torch.compile` it is the registered operator. No gradients: a coded weight is for
inference.

- `codes`: tiles uint8 (`tiles.pack`), or at 8 bits int8 or uint8 (`tiles.prepare8`).
- `scale` float32 and `zero` int8, or none: [N/16, G, 16] (`tiles.tile_scales`).
- `levels` int8 [2 ** bits], or none: a code is its own level, int8 at 8 bits and unsigned below.
- `activation_scale`: what calibration chose, or none: largest / 127 of each row.
"""

import torch

from modelmill.compress.errors import CompressionError
from modelmill.kernels import native, reference
from modelmill.kernels.packing import Packed
from modelmill.kernels.weight import Coded, Ready, fixed, is_plain

Optional = torch.Tensor | None
FEW = 4
"""Rows up to which codes are read as they come from memory."""


def coded_linear(
    x: torch.Tensor,
    codes: torch.Tensor,
    scale: torch.Tensor,
    levels: Optional,
    zero: Optional,
    bias: Optional,
    *,
    bits: int,
    inputs: int,
    outputs: int,
    activation_scale: float | None = None,
    relu: bool = False,
    packed: Packed | None = None,
) -> torch.Tensor:
    """x [..., inputs] times the weight [outputs, inputs] transposed, plus bias [outputs]: [..., outputs], of x's type.

    `packed` (`packing.packed` of the same codes) makes it faster, with the same result. A row of x with a value that is not
    finite gives a row of NaN. Raises CompressionError where arguments do not fit together.
    """
    if is_plain(x):
        weight = Ready(Coded(codes, scale, levels, zero, bias, bits, outputs, inputs))
        return multiply(x, weight, activation_scale, relu, packed)
    result: torch.Tensor = torch.ops.modelmill.coded_linear(
        x, codes, scale, levels, zero, bias, bits, inputs, outputs, activation_scale, relu
    )
    return result


def multiply(
    x: torch.Tensor, weight: Ready, activation_scale: float | None, relu: bool = False, packed: Packed | None = None
) -> torch.Tensor:
    """`coded_linear` with a weight that was checked before; not for a trace."""
    if x.dtype is not torch.float32:
        return multiply(x.float(), weight, activation_scale, relu, packed).to(x.dtype)
    coded, shape = weight.weight, x.shape
    if not shape or shape[-1] != coded.inputs:
        raise CompressionError(f"x is {list(shape)}: the weight takes {coded.inputs} inputs")
    scale = 0.0 if activation_scale is None else fixed(activation_scale)
    if weight.runs(x):
        return _native(x.contiguous(), weight, scale, relu, packed)
    whole, x_scale = reference.quantize(x.reshape(-1, coded.inputs), activation_scale)
    out = reference.product(whole, x_scale, *coded[:-1])
    return (out.relu_() if relu else out).view(*shape[:-1], coded.outputs)


def _native(x: torch.Tensor, weight: Ready, scale: float, relu: bool, packed: Packed | None) -> torch.Tensor:
    chosen, (*first, inputs) = native.chosen, x.shape
    rows = x.numel() // inputs
    out = torch.empty(*first, weight.weight.outputs)
    rest = (x.data_ptr(), rows, scale, torch.get_num_threads(), out.data_ptr(), relu)
    if packed is not None and rows > FEW:
        chosen.packed_linear(chosen.number, *weight.numbers, *packed.numbers(), *rest)
    else:
        chosen.linear(chosen.number, *weight.numbers, *rest)
    return out


def _operator(
    x: torch.Tensor,
    codes: torch.Tensor,
    scale: torch.Tensor,
    levels: Optional,
    zero: Optional,
    bias: Optional,
    bits: int,
    inputs: int,
    outputs: int,
    activation_scale: float | None,
    relu: bool,
) -> torch.Tensor:
    return multiply(x, Ready(Coded(codes, scale, levels, zero, bias, bits, outputs, inputs)), activation_scale, relu)


def _shape(
    x: torch.Tensor,
    codes: torch.Tensor,
    scale: torch.Tensor,
    levels: Optional,
    zero: Optional,
    bias: Optional,
    bits: int,
    inputs: int,
    outputs: int,
    activation_scale: float | None,
    relu: bool,
) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], outputs))


_NAME = "modelmill::coded_linear"
torch.library.define(
    _NAME,
    "(Tensor x, Tensor codes, Tensor scale, Tensor? levels, Tensor? zero, Tensor? bias, int bits, int inputs, int outputs, "
    "float? activation_scale, bool relu) -> Tensor",
)
torch.library.impl(_NAME, "default", _operator)
torch.library.register_fake(_NAME, _shape)
