"""Uniform symmetric 8-bit codes with one scale for each output channel: w ~ q * s, |w - q * s| <= s / 2.

Stored as compressed-tensors' `int-quantized` with strategy `channel`: `<weight>` int8 in the weight's own row-major
shape, `<weight>_scale` float32 [N, 1]. Codes lie in [-127, 127]; -128 stays unused, so that the grid is symmetric.
A channel of zeros has scale 1.
"""

import torch

from modelmill.compress.errors import BadArtifact, CompressionError

NAME = "uniform-int8"
BITS = 8
LIMIT = 127


def encode(weight: torch.Tensor, *, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and scales of a weight [N, ...]."""
    rows = weight.detach().to(torch.float32).flatten(1)
    if not bool(rows.isfinite().all()):
        count = int((~rows.isfinite()).sum())
        raise CompressionError(f"tensor {name!r}: {count} values are not finite; train again with a lower lr")
    largest = rows.abs().amax(dim=1, keepdim=True)
    # Below the smallest normal number a division would end at 0, or lose the bound.
    scale = (largest / LIMIT).clamp_min(torch.finfo(torch.float32).tiny).where(largest > 0, torch.ones(()))
    codes = (rows / scale).round_().clamp_(-LIMIT, LIMIT).to(torch.int8)
    return codes.view(weight.shape), scale


def decode(codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The dense weight that the codes stand for."""
    return (codes.flatten(1).to(torch.float32) * scale).view(codes.shape)


def check(codes: torch.Tensor, scale: torch.Tensor, *, name: str) -> None:
    """Refuses what cannot be the codes and scales of one weight."""
    if codes.dtype != torch.int8 or codes.dim() < 2:
        raise BadArtifact(f"tensor {name!r}: codes must be torch.int8 [N, ...], the file has {codes.dtype} {list(codes.shape)}")
    wanted = (codes.shape[0], 1)
    if scale.dtype != torch.float32 or scale.shape != wanted:
        raise BadArtifact(
            f"tensor {name + '_scale'!r}: expected torch.float32 {list(wanted)}, the file has {scale.dtype} {list(scale.shape)}"
        )
    wrong = ~(scale.isfinite() & (scale > 0))
    if bool(wrong.any()):
        row = int(wrong.flatten().nonzero()[0])
        raise BadArtifact(f"tensor {name + '_scale'!r}: scale {float(scale[row]):g} of channel {row} must be finite and above 0")
