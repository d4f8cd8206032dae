"""Sparse rows: of a weight [N, K] the values that are kept, and where they are: 2 of every 4 inputs, or a bit for each input.

2 of 4 (K a multiple of 4; Mishra et al. 2021):

    values  int8 or float32 [N, K / 2]
    bits    uint8 [N, ceil(K / 8)]    positions within their four, 2 bits each, ascending: value p of a row has bits
                                      2 * (p % 4) of byte p // 4; the rest of a last byte is 0

A bit for each input (any K):

    bits    uint8 [N, ceil(K / 8)]    bit k % 8 of byte k // 8 is 1 where input k is kept; the rest of a last byte is 0
    values  int8 or float32 [kept]    row by row, inputs ascending
    starts  int32 [N + 1]             row n has the values starts[n] to starts[n + 1]

With int8, w = value * scale, scale float32 [N].
"""

from dataclasses import dataclass

import torch

from modelmill.compress.errors import BadArtifact, CompressionError
from modelmill.kernels import integers
from modelmill.kernels.blocks import check_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Sparse:
    """A weight [outputs, inputs] with single values kept; `starts` is None where 2 of 4 are."""

    values: torch.Tensor
    bits: torch.Tensor
    starts: torch.Tensor | None
    scale: torch.Tensor | None
    outputs: int
    inputs: int


def encode_two_of_four(rows: torch.Tensor, *, scale: torch.Tensor | None = None, name: str = "weight") -> Sparse:
    """Rows [N, K] with at most 2 of every 4 not zero, float32, or int8 with a scale [N].

    Raises CompressionError where a four has more, or K is not a multiple of 4.
    """
    check_rows(rows, scale, name=name)
    outputs, inputs = rows.shape
    if inputs % 4:
        raise CompressionError(f"tensor {name!r}: 2 of 4 needs inputs in fours, not {inputs}; keep it dense or use a mask")
    fours = rows.detach().view(outputs, -1, 4)
    most = int((fours != 0).sum(dim=2).max())
    if most > 2:
        raise CompressionError(f"tensor {name!r}: {most} of 4 values are not zero, at most 2 may be; prune it first")
    # What is not zero first, in order; then zeros to make two; then ascending again.
    order = (fours == 0).to(torch.int8).argsort(dim=2, stable=True)[..., :2].sort(dim=2).values
    values = fours.gather(2, order).view(outputs, -1).contiguous()
    two_bits = torch.nn.functional.pad(order.reshape(outputs, -1), (0, -(inputs // 2) % 4)).view(outputs, -1, 4)
    bits = (two_bits << torch.tensor([0, 2, 4, 6])).sum(dim=2).to(torch.uint8)
    return Sparse(values=values, bits=bits, starts=None, scale=scale, outputs=outputs, inputs=inputs)


def encode_mask(rows: torch.Tensor, *, scale: torch.Tensor | None = None, name: str = "weight") -> Sparse:
    """Keeps what is not zero of rows [N, K] in float32, or in int8 with a scale [N]."""
    check_rows(rows, scale, name=name)
    outputs, inputs = rows.shape
    kept = rows.detach() != 0
    eight = torch.nn.functional.pad(kept, (0, -inputs % 8)).view(outputs, -1, 8)
    bits = (eight.to(torch.int64) << torch.arange(8)).sum(dim=2).to(torch.uint8)
    starts = torch.nn.functional.pad(kept.sum(dim=1).cumsum(0), (1, 0)).to(torch.int32)
    return Sparse(values=rows.detach()[kept], bits=bits, starts=starts, scale=scale, outputs=outputs, inputs=inputs)


def decode(weight: Sparse, start: int = 0, stop: int | None = None, *, scaled: bool = True) -> torch.Tensor:
    """Rows start to stop, dense float32 [stop - start, K]; not `scaled`, the values alone. Plain torch."""
    stop = weight.outputs if stop is None else stop
    if weight.starts is None:
        rows = _two_of_four(weight, start, stop)
    else:
        mask = _unpacked(weight.bits[start:stop], 1)[:, : weight.inputs] == 1
        rows = torch.zeros(mask.shape, device=mask.device)
        rows[mask] = weight.values[int(weight.starts[start]) : int(weight.starts[stop])].to(torch.float32)
    return rows if weight.scale is None or not scaled else rows * weight.scale[start:stop, None]


def _two_of_four(weight: Sparse, start: int, stop: int) -> torch.Tensor:
    place = _unpacked(weight.bits[start:stop], 2)[:, : weight.inputs // 2]
    four = 4 * (torch.arange(weight.inputs // 2, device=place.device) // 2)
    rows = torch.zeros(stop - start, weight.inputs, device=place.device)
    return rows.scatter_(1, place + four, weight.values[start:stop].to(torch.float32))


def _unpacked(data: torch.Tensor, width: int) -> torch.Tensor:
    """Numbers of `width` bits, int64, the lowest first."""
    shifts = torch.arange(0, 8, width, device=data.device)
    return ((data[..., None].long() >> shifts) & ((1 << width) - 1)).flatten(1)


def check(weight: Sparse, *, name: str) -> None:
    """Refuses with BadArtifact what a file says and neither `encode` would have made."""
    values, bits, outputs, inputs = weight.values, weight.bits, weight.outputs, weight.inputs
    if not 1 <= inputs <= integers.MAX_INPUTS or outputs < 1:
        raise BadArtifact(
            f"tensor {name!r}: shape {[outputs, inputs]} must be 1 or more, and at most {integers.MAX_INPUTS} inputs"
        )
    if weight.starts is None and inputs % 4:
        raise BadArtifact(f"tensor {name!r}: 2 of 4 needs inputs in fours, the shape says {inputs}")
    wanted = (outputs, inputs // 2) if weight.starts is None else (len(values) if values.dim() else 0,)
    if values.dtype not in (torch.int8, torch.float32) or tuple(values.shape) != wanted:
        raise BadArtifact(
            f"tensor {name!r}: values must be torch.int8 or torch.float32 {list(wanted)}, "
            f"the file has {values.dtype} {list(values.shape)}"
        )
    size = (outputs, -(-inputs // 8))
    if bits.dtype != torch.uint8 or tuple(bits.shape) != size:
        raise BadArtifact(f"tensor {name!r}: bits must be torch.uint8 {list(size)}, the file has {bits.dtype} {list(bits.shape)}")
    integers.check_scale(weight.scale, is_float=values.dtype == torch.float32, outputs=outputs, name=name)
    integers.check_values(values, name=name)
    if weight.starts is None:
        _check_positions(weight, name=name)
    else:
        _check_mask(weight, weight.starts, name=name)


def _check_positions(weight: Sparse, *, name: str) -> None:
    place = _unpacked(weight.bits, 2)
    if bool(place[:, weight.inputs // 2 :].any()):
        raise BadArtifact(f"tensor {name!r}: bits behind the last position of a row must be 0")
    pairs = place[:, : weight.inputs // 2].view(weight.outputs, -1, 2)
    wrong = pairs[..., 1] <= pairs[..., 0]
    if bool(wrong.any()):
        row, four = wrong.nonzero()[0].tolist()
        first, second = pairs[row, four].tolist()
        raise BadArtifact(f"tensor {name!r}: positions {first} and {second} of row {row} must ascend")


def _check_mask(weight: Sparse, starts: torch.Tensor, *, name: str) -> None:
    integers.check_starts(starts, count=weight.outputs, last=len(weight.values), what="values", name=name)
    mask = _unpacked(weight.bits, 1)
    if bool(mask[:, weight.inputs :].any()):
        raise BadArtifact(f"tensor {name!r}: bits behind the last input of a row must be 0")
    wrong = mask.sum(dim=1) != starts[1:] - starts[:-1]
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        said = int(starts[row + 1] - starts[row])
        raise BadArtifact(f"tensor {name!r}: the mask of row {row} keeps {int(mask[row].sum())} values, starts say {said}")
