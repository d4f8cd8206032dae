"""Low rank: one layer becomes two thin ones, where the weight's singular values say that little is lost.

    W [N, K] = U S V^T  ~  second @ first,   first = sqrt(S_r) V_r^T [r, K],   second = U_r sqrt(S_r) [N, r]
    error = ||W - second @ first||_F / ||W||_F = sqrt(sum of s_i^2, i > r) / sqrt(sum of s_i^2)

No other product of rank r is nearer (Eckart, Young 1936). A convolution [N, C, h, w] is the matrix [N, C * h * w]: its K x K
kernel to r channels, with its stride and padding, then 1 x 1 (Zhang, Zou, He, Sun 2016, "Accelerating Very Deep
Convolutional Networks for Classification and Detection", without their fit to the layer's responses).
Two layers take r * (N + K) multiplications and weights where one took N * K, and are refused where that is not fewer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from modelmill.compress.errors import BadArtifact, CompressionError
from modelmill.compress.structure import Edit, Factor, apply_edits


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    first: torch.Tensor
    """float32 [r, K]"""
    second: torch.Tensor
    """float32 [N, r]"""
    error: float
    """Relative Frobenius norm of what is lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    edits: tuple[Edit, ...]
    errors: dict[str, float]
    """Path of a layer that was factored -> its error."""
    refused: dict[str, str]
    """Path of a layer that was not -> why."""


def factors(weight: torch.Tensor, *, rank: int | None = None, error: float | None = None) -> Factors:
    """The best two factors: of the rank, or of the smallest rank (at least 1) whose error is at most `error`.

    Exactly one of the two is given. CompressionError for another number of them, a rank outside [1, min(N, K)], an
    error outside [0, 1), and a weight that is not finite."""
    matrix = weight.detach().flatten(1).double()
    if (rank is None) == (error is None):
        raise CompressionError("low rank: give a rank or an error, and not both")
    if not bool(matrix.isfinite().all()):
        raise CompressionError("low rank: the weight holds NaN or infinity")
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    lost = _errors(s)
    chosen = _rank(lost, error) if error is not None else rank
    if chosen is None or not 1 <= chosen <= len(s):
        raise CompressionError(f"low rank: rank {chosen} must be from 1 to {len(s)}")
    root = s[:chosen].sqrt()
    first, second = root[:, None] * v[:chosen], u[:, :chosen] * root
    return Factors(first=first.float(), second=second.float(), error=float(lost[chosen]))


def factor_layers(module: nn.Module, paths: Sequence[str], *, rank: int | None = None, error: float | None = None) -> LowRank:
    """Factors these layers of the module, in place, where that saves multiplications; tells which and why not.

    CompressionError for a path that is not a layer which can be factored at all; others as `factors`."""
    edits: list[Edit] = []
    errors: dict[str, float] = {}
    refused: dict[str, str] = {}
    for path in paths:
        layer = _layer(module, path)
        found = factors(layer.weight, rank=rank, error=error)
        edit = Factor(path=path, rank=len(found.first))
        if reason := refusal(layer.weight, rank=edit.rank):
            refused[path] = reason
            continue
        _replace(module, layer, edit, found)
        edits.append(edit)
        errors[path] = found.error
    return LowRank(edits=tuple(edits), errors=errors, refused=refused)


def refusal(weight: torch.Tensor, *, rank: int) -> str | None:
    """Why two layers of this rank would not save anything; None where they do."""
    outputs, inputs = weight.shape[0], math.prod(weight.shape[1:])
    two, one = rank * (outputs + inputs), outputs * inputs
    if two < one:
        return None
    most = (one - 1) // (outputs + inputs)
    advice = f"a rank of at most {most} would save" if most else "no rank would save"
    return f"rank {rank} takes {two} multiplications where the layer takes {one}; {advice}"


def _replace(module: nn.Module, layer: nn.Linear | nn.Conv2d, edit: Factor, found: Factors) -> None:
    try:
        apply_edits(module, [edit])
    except BadArtifact as error:
        raise CompressionError(f"low rank: {error}") from error
    made = module.get_submodule(edit.path)
    first, second = made.get_submodule("0"), made.get_submodule("1")
    assert isinstance(first, nn.Linear | nn.Conv2d) and isinstance(second, nn.Linear | nn.Conv2d)
    with torch.no_grad():
        first.weight.copy_(found.first.view(first.weight.shape))
        second.weight.copy_(found.second.view(second.weight.shape))
        if second.bias is not None and layer.bias is not None:
            second.bias.copy_(layer.bias)


def _layer(module: nn.Module, path: str) -> nn.Linear | nn.Conv2d:
    try:
        layer = module.get_submodule(path)
    except AttributeError as error:
        raise CompressionError(f"low rank: the model has no layer {path!r}") from error
    if not isinstance(layer, nn.Linear | nn.Conv2d):
        raise CompressionError(f"low rank: {path!r} is a {type(layer).__name__}; linear layers and convolutions can be factored")
    return layer


def _errors(s: torch.Tensor) -> torch.Tensor:
    """float64 [R + 1]: the error at each rank from 0; all 0 for a weight of zeros."""
    tails = s.square().flip(0).cumsum(0).flip(0)
    tails = torch.cat([tails, tails.new_zeros(1)])
    return (tails / tails[0].clamp(min=torch.finfo(tails.dtype).tiny)).sqrt()


def _rank(lost: torch.Tensor, error: float) -> int:
    if not 0 <= error < 1:
        raise CompressionError(f"low rank: error {error} must be at least 0 and below 1")
    return max(1, int((lost <= error).nonzero()[0]))
