"""From a finished draft to what the file holds: the one place where values are rounded and zeros left out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from modelmill.compress.codecs import bfloat16
from modelmill.compress.codecs.blocks import BlockWeight
from modelmill.compress.codecs.coded import CodedWeight
from modelmill.compress.codecs.signs import SignCodes, SignWeight
from modelmill.compress.codecs.sparse import SparseWeight
from modelmill.compress.draft import HEIGHTS, Draft, Mask
from modelmill.compress.grids.grid import Grid
from modelmill.compress.grids.uniform import Uniform
from modelmill.compress.grids.xnor import Xnor
from modelmill.compress.select import select
from modelmill.compress.state import tensors_of
from modelmill.compress.structure import to_json
from modelmill.compress.weight import CompressedWeight
from modelmill.compress.weights import Plain, Weight

WORTH_IT = 0.3
"""Zeros among single weights from which on leaving them out makes the file smaller by a sixth or more."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Compressed:
    weights: dict[str, Weight]
    structure: tuple[dict[str, Any], ...] = ()
    """Edits of the recipe's module, as JSON."""
    changed: tuple[str, ...] = ()
    """Names of the weights that are stored otherwise than they were trained."""
    kept: dict[str, str] = field(default_factory=dict)
    """Name of a weight that stayed dense though it has at least two dimensions -> why."""
    sparsity: float = 0.0
    """Zeros among the values of the changed weights."""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    """What a step cannot bring on this machine, with numbers."""
    reports: Mapping[str, bytes] = field(default_factory=dict)
    """Files for whoever looks closer: the end of a name, such as search.json -> its bytes."""


def encode(draft: Draft) -> Compressed:
    state = tensors_of(draft.module)
    masked = {name: tensor * draft.masks[name].kept if name in draft.masks else tensor for name, tensor in state.items()}
    changed = sorted(draft.masks.keys() | draft.grids.keys())
    weights: dict[str, Weight] = {name: Plain(data=tensor) for name, tensor in masked.items()}
    if draft.rounded:
        floats = [name for name, tensor in masked.items() if tensor.is_floating_point()]
        rounded = {name: Plain(codec=bfloat16.NAME, data=bfloat16.encode(masked[name], name=name)) for name in floats}
        changed = sorted(floats)
        weights.update(rounded)
    else:
        for name in changed:
            weight = weights[name] = encode_weight(masked[name], draft.masks.get(name), draft.grids.get(name), name=name)
            if isinstance(weight, CompressedWeight):
                weight.activation_scale = draft.activation_scales.get(name)
    return Compressed(
        weights=weights,
        structure=tuple(to_json(draft.structure)),
        changed=tuple(changed),
        kept={} if draft.rounded else select(draft.module).kept,
        sparsity=_sparsity([weights[name] for name in changed if masked[name].dim() > 1]),
        notes=tuple(draft.notes),
        reports=dict(draft.reports),
    )


def encode_weight(weight: torch.Tensor, mask: Mask | None, grid: Grid | None, *, name: str) -> Weight:
    """In the form that its mask and its grid ask for."""
    plain = isinstance(grid, Uniform) and grid.bits == 8 and grid.granularity == "Channel" and grid.symmetric
    int8 = grid if plain and isinstance(grid, Uniform) else None
    if mask is not None and mask.pattern in HEIGHTS:
        return BlockWeight.of(weight, height=HEIGHTS[mask.pattern], int8=int8, name=name)
    if mask is not None and mask.pattern == "2:4":
        return SparseWeight.of(weight, pattern="2:4", int8=int8, name=name)
    zeros = float((weight == 0).float().mean())
    if mask is not None and (grid is None or int8 is not None) and zeros >= WORTH_IT:
        return SparseWeight.of(weight, pattern="mask", int8=int8, name=name)
    if grid is None:
        return Plain(data=weight)
    codes = grid.encode(weight, name=name)
    if isinstance(grid, Xnor):
        return SignWeight.of(codes) if weight.dim() == 2 else SignCodes.of(codes)
    return CodedWeight.of(codes)


def _sparsity(weights: list[Weight]) -> float:
    values = [weight.data if isinstance(weight, Plain) else weight.decode() for weight in weights]
    return sum(int((part == 0).sum()) for part in values) / max(1, sum(part.numel() for part in values))
