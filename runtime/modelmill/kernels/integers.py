"""Activations as int8, and exact integer products in plain torch: what the native modules must reproduce bit for bit.

A row x becomes codes round(x / s), ties to even, with s = max |x| / 127 (at least the smallest normal number) or a given
s, cut to [-127, 127]. The product with codes of a weight is a whole number, so

    y[m, n] = float32(sum of code products) * scale[n] * s[m] + bias[n]

is rounded in one order everywhere. A row with a value that is not finite answers NaN.
"""

import torch

from modelmill.compress.errors import BadArtifact

LIMIT = 127
MAX_INPUTS = 1 << 17
"""Up to here a sum of products of codes fits int32."""


def quantize_rows(x: torch.Tensor, activation_scale: float | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes int8 [M, K] and scales float32 [M] of x [M, K]."""
    largest = x.abs().amax(dim=1)
    step = largest / LIMIT if activation_scale is None else torch.full_like(largest, activation_scale)
    step = step.clamp_min(torch.finfo(torch.float32).tiny)
    finite = largest.isfinite()
    codes = (x / step[:, None]).round_().clamp_(-LIMIT, LIMIT).masked_fill_(~finite[:, None], 0)
    return codes.to(torch.int8), step.masked_fill(~finite, torch.nan)


def integer_product(codes: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """codes [M, K] times weight [N, K] transposed, both int8, as float32 [M, N]: the exact sums, rounded once."""
    return (codes.double() @ weight.double().t()).to(torch.float32)


def check_scale(scale: torch.Tensor | None, *, is_float: bool, outputs: int, name: str) -> None:
    """int8 values need a scale for each row, finite and above 0; float32 values have none."""
    if is_float:
        if scale is not None:
            raise BadArtifact(f"tensor {name!r}: values are torch.float32 and must have no scale; leave it out")
        return
    if scale is None or scale.dtype != torch.float32 or tuple(scale.shape) != (outputs,):
        found = "none" if scale is None else f"{scale.dtype} {list(scale.shape)}"
        raise BadArtifact(f"tensor {name!r}: scale must be torch.float32 [{outputs}], the file has {found}")
    wrong = ~(scale.isfinite() & (scale > 0))
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise BadArtifact(f"tensor {name!r}: scale {float(scale[row]):g} of row {row} must be finite and above 0")


def check_values(values: torch.Tensor, *, name: str) -> None:
    """int8 from -127 on (-128 has no counterpart, and the products rely on it), or finite float32."""
    if values.dtype == torch.int8:
        if bool((values == -LIMIT - 1).any()):
            raise BadArtifact(f"tensor {name!r}: value -128 is not used; values are -127 to 127")
    elif not bool(values.isfinite().all()):
        raise BadArtifact(f"tensor {name!r}: {int((~values.isfinite()).sum())} values are not finite")


def check_starts(starts: torch.Tensor, *, count: int, last: int, what: str, name: str) -> None:
    """Offsets int32 [count + 1] that only grow, from 0 to `last`."""
    if starts.dtype != torch.int32 or tuple(starts.shape) != (count + 1,):
        raise BadArtifact(
            f"tensor {name!r}: starts must be torch.int32 [{count + 1}], the file has {starts.dtype} {list(starts.shape)}"
        )
    if int(starts[0]) != 0 or int(starts[-1]) != last or bool((starts[1:] < starts[:-1]).any()):
        raise BadArtifact(
            f"tensor {name!r}: starts must grow from 0 to the {last} {what}; found {int(starts[0])} to {int(starts[-1])}"
        )
