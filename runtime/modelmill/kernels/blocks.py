"""Block sparsity: of a weight [N, K] (rows as in `rows_of`), blocks of 16 or 4 consecutive rows x 1 input are kept or not.

Layout, B being 16 or 4, for each block of rows from the first to the last (the last is filled up with zero rows):

    starts  int32 [ceil(N / B) + 1]   block b has the quads starts[b] to starts[b + 1]
    index   int16 [Q, 4]              which inputs a quad has, ascending within a block; int32 where K > 32768
    values  int8 [Q, B, 4]            byte 4 * i + j of a quad: row B * b + i, input index[q, j]
         or float32 [Q, 4, B]
    scale   float32 [N]               w = value * scale; only with int8

The last quad of a block is filled up with index 0 and value 0. 64 bytes of int8 are 16 rows x 4 inputs, as in a tile of
codes: one load serves four products of each row, and only the activations are picked by index.
"""

from dataclasses import dataclass

import torch

from modelmill.compress.errors import BadArtifact, CompressionError
from modelmill.kernels import integers

HEIGHTS = (16, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """A weight [outputs, inputs] of which blocks are kept; see the module for the tensors."""

    values: torch.Tensor
    index: torch.Tensor
    starts: torch.Tensor
    scale: torch.Tensor | None
    outputs: int
    inputs: int

    @property
    def height(self) -> int:
        """Rows of a block."""
        return self.values.shape[1 if self.values.dtype == torch.int8 else 2]


def index_dtype(inputs: int) -> torch.dtype:
    return torch.int16 if inputs <= 1 << 15 else torch.int32


def encode(rows: torch.Tensor, *, height: int, scale: torch.Tensor | None = None, name: str = "weight") -> Blocks:
    """Keeps every block that is not all zero, of rows [N, K] in float32, or in int8 with a scale [N].

    Raises CompressionError for another height or dtype, and for values that are not finite.
    """
    if height not in HEIGHTS:
        raise CompressionError(f"tensor {name!r}: blocks of {height} rows are not there; use {HEIGHTS[0]} or {HEIGHTS[1]}")
    check_rows(rows, scale, name=name)
    outputs, inputs = rows.shape
    filled = torch.nn.functional.pad(rows.detach(), (0, 0, 0, -outputs % height)).view(-1, height, inputs)
    kept = (filled != 0).any(dim=1)
    starts = torch.nn.functional.pad(((kept.sum(dim=1) + 3) // 4).cumsum(0), (1, 0))
    block, column = kept.nonzero(as_tuple=True)
    before = kept.sum(dim=1).cumsum(0) - kept.sum(dim=1)
    place = 4 * starts[block] + torch.arange(len(block)) - before[block]
    quads = int(starts[-1])
    index = torch.zeros(4 * quads, dtype=index_dtype(inputs))
    index[place] = column.to(index.dtype)
    values = rows.new_zeros(4 * quads, height)
    values[place] = filled[block, :, column]
    values = values.view(quads, 4, height)
    if scale is not None:
        values = values.transpose(1, 2).contiguous()
    return Blocks(
        values=values, index=index.view(quads, 4), starts=starts.to(torch.int32), scale=scale, outputs=outputs, inputs=inputs
    )


def check_rows(rows: torch.Tensor, scale: torch.Tensor | None, *, name: str) -> None:
    """What can be stored sparse: float32 [N, K], finite, or int8 with a scale for each row."""
    wanted = torch.float32 if scale is None else torch.int8
    if rows.dim() != 2 or rows.numel() == 0 or rows.dtype != wanted:
        raise CompressionError(f"tensor {name!r}: expected {wanted} [N, K], not {rows.dtype} {list(rows.shape)}")
    try:
        integers.check_values(rows, name=name)
        integers.check_scale(scale, is_float=scale is None, outputs=rows.shape[0], name=name)
    except BadArtifact as error:
        raise CompressionError(str(error)) from error


def decode(weight: Blocks, start: int = 0, stop: int | None = None, *, scaled: bool = True) -> torch.Tensor:
    """Rows start to stop, dense float32 [stop - start, K]; not `scaled`, the values alone. Plain torch."""
    stop, height = weight.outputs if stop is None else stop, weight.height
    first, end = start // height, -(-stop // height)
    quads = slice(int(weight.starts[first]), int(weight.starts[end]))
    values = weight.values[quads].to(torch.float32)
    if weight.values.dtype == torch.int8:
        values = values.transpose(1, 2)
    counts = 4 * (weight.starts[first + 1 : end + 1] - weight.starts[first:end])
    block = torch.arange(end - first, device=counts.device).repeat_interleave(counts)
    dense = values.new_zeros(end - first, weight.inputs, height)
    # Summed, since padding adds 0 at input 0.
    dense.index_put_((block, weight.index[quads].reshape(-1).long()), values.reshape(-1, height), accumulate=True)
    rows = dense.transpose(1, 2).reshape(-1, weight.inputs)[start - first * height : stop - first * height]
    return rows if weight.scale is None or not scaled else rows * weight.scale[start:stop, None]


def check(weight: Blocks, *, name: str) -> None:
    """Refuses with BadArtifact what a file says and `encode` would never have made."""
    values, index, starts = weight.values, weight.index, weight.starts
    is_float = values.dtype == torch.float32
    shape = tuple(values.shape[1:])
    if values.dtype not in (torch.int8, torch.float32) or shape not in {(4, b) if is_float else (b, 4) for b in HEIGHTS}:
        raise BadArtifact(
            f"tensor {name!r}: values must be torch.int8 [Q, 16 or 4, 4] or torch.float32 [Q, 4, 16 or 4], "
            f"the file has {values.dtype} {list(values.shape)}"
        )
    if not 1 <= weight.inputs <= integers.MAX_INPUTS or weight.outputs < 1:
        raise BadArtifact(
            f"tensor {name!r}: shape {[weight.outputs, weight.inputs]} must be 1 or more, inputs at most {integers.MAX_INPUTS}"
        )
    wanted = index_dtype(weight.inputs)
    if index.dtype != wanted or tuple(index.shape) != (len(values), 4):
        raise BadArtifact(
            f"tensor {name!r}: index must be {wanted} {[len(values), 4]}, the file has {index.dtype} {list(index.shape)}"
        )
    count = -(-weight.outputs // weight.height)
    integers.check_starts(starts, count=count, last=len(values), what="quads", name=name)
    integers.check_scale(weight.scale, is_float=is_float, outputs=weight.outputs, name=name)
    integers.check_values(values, name=name)
    _check_index(weight, name=name)


def _check_index(weight: Blocks, *, name: str) -> None:
    index, flat = weight.index, weight.index.reshape(-1)
    wrong = (index < 0) | (index >= weight.inputs)
    if bool(wrong.any()):
        raise BadArtifact(f"tensor {name!r}: index {int(index[wrong][0])} must be from 0 to {weight.inputs - 1}")
    padding = index == 0
    padding[:, 0] = False
    empty = weight.values.transpose(1, 2) if weight.values.dtype == torch.int8 else weight.values
    last = torch.zeros(len(index), dtype=torch.bool)
    last[weight.starts[1:][weight.starts[1:] > weight.starts[:-1]].long() - 1] = True
    resumed = (padding[:, :-1] & ~padding[:, 1:]).any()
    if bool(resumed) or bool((padding & ~last[:, None]).any()) or bool((empty != 0).any(dim=2)[padding].any()):
        raise BadArtifact(f"tensor {name!r}: index 0 within a quad is filling: only zeros, at the end of a block of rows")
    begins = torch.zeros(len(flat), dtype=torch.bool)
    begins[4 * weight.starts[:-1][weight.starts[:-1] < len(index)].long()] = True
    falls = (flat[1:] <= flat[:-1]) & ~padding.reshape(-1)[1:] & ~begins[1:]
    if bool(falls.any()):
        place = int(falls.nonzero()[0]) + 1
        raise BadArtifact(f"tensor {name!r}: index {int(flat[place])} after {int(flat[place - 1])}: a block's inputs must ascend")
