"""Products with sparse weights: `block_linear` and `sparse_linear`, and their rows written out for convolutions.

int8 values meet int8 activations (see `integers`): sums are exact, so every instruction set, and plain torch, answer the
same bits. float32 values meet float32 activations: blocks sum each row's products in a fixed order, so the native
module's answers do not depend on the instruction set either; sparse rows are written out, a tile at a time, for
torch's own product. At no time is anything allocated that is as large as the dense weight.

The operators are torch.ops.modelmill.block_linear, sparse_linear, block_rows and sparse_rows; outside of tracing the
functions here skip torch's dispatch.
"""

import os

import torch

from modelmill.kernels import blocks, integers, sparse
from modelmill.kernels.blocks import Blocks
from modelmill.kernels.sparse import Sparse

try:
    from modelmill.kernels import _sparse
except ImportError:
    _sparse = None  # type: ignore[assignment]  # built without a compiler: plain torch

native = _sparse
TILE_ELEMENTS = 1 << 18


def _chosen() -> str:
    limit = os.environ.get("MODELMILL_KERNELS", "")
    if native is None or limit == "reference":
        return "reference"
    return limit if limit in native.sets() else native.sets()[-1]


ISA = _chosen()
"""An instruction set of `native.sets()`, or `reference` for plain torch; the environment's MODELMILL_KERNELS limits it."""
LEVELS = {"portable": 0, "avx2": 1, "avx512vnni": 2}


def block_linear(
    x: torch.Tensor, weight: Blocks, bias: torch.Tensor | None = None, *, activation_scale: float | None = None
) -> torch.Tensor:
    """x [..., K] times the weight [N, K] transposed, plus bias [N]: [..., N] in x's dtype.

    Raises ValueError for tensors that do not fit each other. `activation_scale` as in `integers`.
    """
    rows = _rows(x, weight.inputs)
    parts = (weight.values, weight.index, weight.starts, weight.scale, bias, weight.outputs, activation_scale)
    traced = torch.compiler.is_compiling()
    y = torch.ops.modelmill.block_linear(rows, *parts) if traced else _block_linear(rows, *parts)
    return _shaped(y, x)


def sparse_linear(
    x: torch.Tensor, weight: Sparse, bias: torch.Tensor | None = None, *, activation_scale: float | None = None
) -> torch.Tensor:
    """As `block_linear`, with 2 of 4 or a bit for each input."""
    rows = _rows(x, weight.inputs)
    parts = (weight.values, weight.bits, weight.starts, weight.scale, bias, weight.outputs, activation_scale)
    traced = torch.compiler.is_compiling()
    y = torch.ops.modelmill.sparse_linear(rows, *parts) if traced else _sparse_linear(rows, *parts)
    return _shaped(y, x)


def decode_rows(weight: Blocks | Sparse, start: int, stop: int) -> torch.Tensor:
    """Rows start to stop, dense float32 [stop - start, K]: a tile of output channels of a convolution."""
    shape = (weight.outputs, weight.inputs, start, stop)
    traced = torch.compiler.is_compiling()
    if isinstance(weight, Blocks):
        b = (weight.values, weight.index, weight.starts, weight.scale, *shape)
        return torch.ops.modelmill.block_rows(*b) if traced else _block_rows(*b)
    s = (weight.values, weight.bits, weight.starts, weight.scale, *shape)
    return torch.ops.modelmill.sparse_rows(*s) if traced else _sparse_rows(*s)


def _rows(x: torch.Tensor, inputs: int) -> torch.Tensor:
    if x.shape[-1] != inputs:
        raise ValueError(f"x: {list(x.shape)} must end in the weight's {inputs} inputs")
    return x.reshape(-1, inputs).to(torch.float32).contiguous()


def _shaped(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return y.view(*x.shape[:-1], y.shape[1]).to(x.dtype)


def _block_linear(
    x: torch.Tensor,
    values: torch.Tensor,
    index: torch.Tensor,
    starts: torch.Tensor,
    scale: torch.Tensor | None,
    bias: torch.Tensor | None,
    outputs: int,
    activation_scale: float | None = None,
) -> torch.Tensor:
    rows, inputs = x.shape
    weight = Blocks(values=values, index=index, starts=starts, scale=scale, outputs=outputs, inputs=inputs)
    fits_blocks(weight)
    fits_rows(x, bias, outputs)
    if ISA == "reference" or not x.is_cpu:
        return _reference(x, weight, bias, activation_scale)
    y = x.new_empty(rows, outputs)
    native.block_linear(
        *block_numbers(weight),
        0 if bias is None else bias.data_ptr(),
        y.data_ptr(),
        x.data_ptr(),
        rows,
        torch.get_num_threads(),
        LEVELS[ISA],
        activation_scale or 0.0,
    )
    return y


def _block_rows(
    values: torch.Tensor,
    index: torch.Tensor,
    starts: torch.Tensor,
    scale: torch.Tensor | None,
    outputs: int,
    inputs: int,
    start: int,
    stop: int,
) -> torch.Tensor:
    weight = Blocks(values=values, index=index, starts=starts, scale=scale, outputs=outputs, inputs=inputs)
    fits_blocks(weight)
    if not 0 <= start < stop <= outputs:
        raise ValueError(f"rows {start} to {stop} must lie within {outputs}")
    if ISA == "reference" or not values.is_cpu:
        return blocks.decode(weight, start, stop)
    height = weight.height
    first, end = start // height, -(-stop // height)
    dense = torch.empty(min(outputs, end * height) - first * height, inputs)
    native.block_decode(*block_numbers(weight), 0, dense.data_ptr(), first, end)
    rows = dense[start - first * height : stop - first * height]
    return rows if start == first * height else rows.clone()  # the operator promises a tensor of its own


def _sparse_linear(
    x: torch.Tensor,
    values: torch.Tensor,
    bits: torch.Tensor,
    starts: torch.Tensor | None,
    scale: torch.Tensor | None,
    bias: torch.Tensor | None,
    outputs: int,
    activation_scale: float | None = None,
) -> torch.Tensor:
    rows, inputs = x.shape
    weight = Sparse(values=values, bits=bits, starts=starts, scale=scale, outputs=outputs, inputs=inputs)
    fits_sparse(weight)
    fits_rows(x, bias, outputs)
    if scale is None or ISA == "reference" or not x.is_cpu:
        return _reference(x, weight, bias, activation_scale)
    y = x.new_empty(rows, outputs)
    native.sparse_linear(
        *_sparse_numbers(weight),
        0 if bias is None else bias.data_ptr(),
        y.data_ptr(),
        x.data_ptr(),
        rows,
        torch.get_num_threads(),
        LEVELS[ISA],
        activation_scale or 0.0,
    )
    return y


def _sparse_rows(
    values: torch.Tensor,
    bits: torch.Tensor,
    starts: torch.Tensor | None,
    scale: torch.Tensor | None,
    outputs: int,
    inputs: int,
    start: int,
    stop: int,
) -> torch.Tensor:
    weight = Sparse(values=values, bits=bits, starts=starts, scale=scale, outputs=outputs, inputs=inputs)
    fits_sparse(weight)
    if not 0 <= start < stop <= outputs:
        raise ValueError(f"rows {start} to {stop} must lie within {outputs}")
    if ISA == "reference" or not values.is_cpu:
        return sparse.decode(weight, start, stop)
    dense = torch.empty(stop - start, inputs)
    native.sparse_decode(*_sparse_numbers(weight), 0, dense.data_ptr(), start, stop, LEVELS[ISA])
    return dense


def _reference(
    x: torch.Tensor, weight: Blocks | Sparse, bias: torch.Tensor | None, activation_scale: float | None
) -> torch.Tensor:
    """The product, a tile of rows at a time."""
    outputs, inputs, scale = weight.outputs, weight.inputs, weight.scale
    y = x.new_empty(x.shape[0], outputs)
    step = max(1, min(outputs // 4, TILE_ELEMENTS // inputs)) if outputs * inputs > TILE_ELEMENTS else max(1, outputs // 2)
    codes, row_scale = (x, None) if scale is None else integers.quantize_rows(x, activation_scale)
    for start in range(0, outputs, step):
        stop = min(outputs, start + step)
        if scale is None or row_scale is None:
            torch.mm(x, decode_rows(weight, start, stop).t(), out=y[:, start:stop])
            continue
        tile = (blocks.decode if isinstance(weight, Blocks) else sparse.decode)(weight, start, stop, scaled=False)  # type: ignore[arg-type]
        y[:, start:stop] = integers.integer_product(codes, tile) * scale[start:stop] * row_scale[:, None]
    return y if bias is None else y.add_(bias)


def block_numbers(weight: Blocks) -> tuple[int, bool, int, bool, int, int, int, int, int, int]:
    values, index, scale = weight.values, weight.index, weight.scale
    return (
        values.data_ptr(),
        scale is None,
        index.data_ptr(),
        index.dtype == torch.int32,
        weight.starts.data_ptr(),
        values.shape[0],
        weight.height,
        weight.outputs,
        weight.inputs,
        0 if scale is None else scale.data_ptr(),
    )


def _sparse_numbers(weight: Sparse) -> tuple[int, bool, int, int, int, int, int, int]:
    starts, scale = weight.starts, weight.scale
    return (
        weight.values.data_ptr(),
        scale is None,
        weight.bits.data_ptr(),
        0 if starts is None else starts.data_ptr(),
        weight.values.numel(),
        weight.outputs,
        weight.inputs,
        0 if scale is None else scale.data_ptr(),
    )


def fits_rows(x: torch.Tensor, bias: torch.Tensor | None, outputs: int) -> None:
    if x.dtype != torch.float32 or not x.is_contiguous():
        raise ValueError(f"x: {x.dtype} must be torch.float32 and contiguous")
    fits_bias(bias, outputs)


def fits_bias(bias: torch.Tensor | None, outputs: int) -> None:
    if bias is not None and (bias.dtype != torch.float32 or bias.shape != (outputs,) or not bias.is_contiguous()):
        raise ValueError(f"bias: {bias.dtype} {list(bias.shape)} must be torch.float32 [{outputs}]")


def fits_blocks(weight: Blocks) -> None:
    """Sizes, as far as the native module relies on them; what the tensors say, `blocks.check` has seen."""
    values, index, starts, height = weight.values, weight.index, weight.starts, weight.height
    sides = (4, height) if weight.scale is None else (height, 4)
    if values.shape != (values.shape[0], *sides) or values.dtype != _value_dtype(weight.scale) or not values.is_contiguous():
        raise ValueError(f"values: {values.dtype} {list(values.shape)} must be int8 [Q, B, 4] with a scale, or float32 [Q, 4, B]")
    if index.shape != (values.shape[0], 4) or index.dtype not in (torch.int16, torch.int32) or not index.is_contiguous():
        raise ValueError(f"index: {index.dtype} {list(index.shape)} must be int16 or int32 {[values.shape[0], 4]}")
    if starts.shape != (-(-weight.outputs // height) + 1,) or starts.dtype != torch.int32 or not starts.is_contiguous():
        raise ValueError(f"starts: {starts.dtype} {list(starts.shape)} must be int32 [blocks + 1] for {weight.outputs} rows")
    fits_scale(weight.scale, weight.outputs)


def fits_sparse(weight: Sparse) -> None:
    values, bits, starts, outputs, inputs = weight.values, weight.bits, weight.starts, weight.outputs, weight.inputs
    wanted = (outputs, inputs // 2) if starts is None else (values.numel(),)
    if values.shape != wanted or values.dtype != _value_dtype(weight.scale) or not values.is_contiguous():
        raise ValueError(f"values: {values.dtype} {list(values.shape)} must be {list(wanted)}, int8 with a scale, or float32")
    if bits.shape != (outputs, -(-inputs // 8)) or bits.dtype != torch.uint8 or not bits.is_contiguous():
        raise ValueError(f"bits: {bits.dtype} {list(bits.shape)} must be uint8 {[outputs, -(-inputs // 8)]}")
    if starts is not None and (starts.shape != (outputs + 1,) or starts.dtype != torch.int32 or not starts.is_contiguous()):
        raise ValueError(f"starts: {starts.dtype} {list(starts.shape)} must be int32 {[outputs + 1]}")
    fits_scale(weight.scale, outputs)


def _value_dtype(scale: torch.Tensor | None) -> torch.dtype:
    return torch.float32 if scale is None else torch.int8


def fits_scale(scale: torch.Tensor | None, outputs: int) -> None:
    if scale is not None and (scale.dtype != torch.float32 or scale.shape != (outputs,) or not scale.is_contiguous()):
        raise ValueError(f"scale: {scale.dtype} {list(scale.shape)} must be float32 [{outputs}]")


def _register() -> torch.library.Library:
    library = torch.library.Library("modelmill", "FRAGMENT")
    linear = "Tensor? scale, Tensor? bias, int outputs, float? activation_scale=None) -> Tensor"
    rows = "Tensor? scale, int outputs, int inputs, int start, int stop) -> Tensor"
    for name, schema, function in (
        ("block_linear", f"(Tensor x, Tensor values, Tensor index, Tensor starts, {linear}", _block_linear),
        ("sparse_linear", f"(Tensor x, Tensor values, Tensor bits, Tensor? starts, {linear}", _sparse_linear),
        ("block_rows", f"(Tensor values, Tensor index, Tensor starts, {rows}", _block_rows),
        ("sparse_rows", f"(Tensor values, Tensor bits, Tensor? starts, {rows}", _sparse_rows),
    ):
        library.define(name + schema)
        library.impl(name, function, "CompositeExplicitAutograd")
        is_linear = name.endswith("linear")
        torch.library.register_fake(f"modelmill::{name}", _fake_linear if is_linear else _fake_rows, lib=library)
    return library


def _fake_linear(
    x: torch.Tensor,
    values: torch.Tensor,
    where: torch.Tensor,
    starts: torch.Tensor | None,
    scale: torch.Tensor | None,
    bias: torch.Tensor | None,
    outputs: int,
    activation_scale: float | None = None,
) -> torch.Tensor:
    return x.new_empty(x.shape[0], outputs)


def _fake_rows(
    values: torch.Tensor,
    where: torch.Tensor,
    starts: torch.Tensor | None,
    scale: torch.Tensor | None,
    outputs: int,
    inputs: int,
    start: int,
    stop: int,
) -> torch.Tensor:
    return values.new_empty(stop - start, inputs, dtype=torch.float32)


_LIBRARY = _register()
