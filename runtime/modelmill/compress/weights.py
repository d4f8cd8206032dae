"""The weights file of a variant: a safetensors file whose metadata says how each weight is stored.

    __metadata__["modelmill"] = {"format": 2, "structure": [...], "tensors": {
        "fc.weight": {"codec": "codes", "grid": "Uniform", "bits": 8, "shape": [10, 64]},
        "fc.bias":   {"codec": "dense"}, ...}}

Names are those of the module's state dict; what a codec stores besides is beside it: `fc.weight_scale`. `structure` lists the
edits that make the recipe's module one with these shapes, if there are any (`structure.py`). A plain safetensors file,
without this metadata, is read as dense throughout, so models from elsewhere need no conversion.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from modelmill.compress import container
from modelmill.compress.codecs import bfloat16, dense
from modelmill.compress.codecs.blocks import BlockWeight
from modelmill.compress.codecs.coded import CodedWeight
from modelmill.compress.codecs.signs import SignCodes, SignWeight
from modelmill.compress.codecs.sparse import SparseWeight
from modelmill.compress.errors import BadArtifact
from modelmill.compress.weight import CompressedWeight

METADATA_KEY = "modelmill"
FORMAT = 2
CODECS: dict[str, type[CompressedWeight]] = {
    kind.codec: kind for kind in (CodedWeight, BlockWeight, SparseWeight, SignWeight, SignCodes)
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plain:
    """A tensor as it is: dense, or rounded to bfloat16."""

    data: torch.Tensor
    codec: str = dense.NAME


Weight = Plain | CompressedWeight


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Weights:
    tensors: dict[str, Weight]
    structure: Sequence[dict[str, Any]] = ()
    """Edits of the recipe's module, as JSON."""


def told(weight: Weight) -> str:
    """For people."""
    return f"{weight.codec}, {list(weight.data.shape)}" if isinstance(weight, Plain) else weight.extra_repr()


def write_weights(path: Path, weights: Mapping[str, Weight], *, structure: Sequence[dict[str, Any]] = ()) -> int:
    """Writes the file and returns its size."""
    tensors: dict[str, torch.Tensor] = {}
    descriptors: dict[str, dict[str, Any]] = {}
    for name, weight in weights.items():
        if isinstance(weight, Plain):
            parts = {"": weight.data}
            descriptors[name] = {"codec": weight.codec}
        else:
            parts = weight.tensors()
            descriptors[name] = {"codec": weight.codec, **weight.descriptor()}
            if weight.activation_scale is not None:
                descriptors[name]["activationScale"] = weight.activation_scale
        for end, tensor in parts.items():
            if end and part_name(name, end) in weights:
                raise BadArtifact(
                    f"tensor {part_name(name, end)!r}: {name!r} needs this name for itself; rename it in the recipe"
                )
            tensors[part_name(name, end)] = tensor
    text = {"format": FORMAT, "tensors": descriptors} | ({"structure": list(structure)} if structure else {})
    return container.write(path, tensors, metadata={METADATA_KEY: json.dumps(text, separators=(",", ":"), sort_keys=True)})


def part_name(name: str, end: str) -> str:
    return f"{name}_{end}" if end else name


def read_weights(path: Path) -> Weights:
    """Every weight of the file by its name; data stay in the file until they are used."""
    tensors, metadata = container.read(path)
    if METADATA_KEY not in metadata:
        return Weights(tensors={name: Plain(data=tensor) for name, tensor in tensors.items()})
    described = _described(path, metadata[METADATA_KEY])
    weights = {name: _weight(name, raw, tensors) for name, raw in described["tensors"].items()}
    if tensors:
        raise BadArtifact(f"tensor {min(tensors)!r}: stored, but no descriptor speaks of it")
    return Weights(tensors=weights, structure=described.get("structure", ()))


def _described(path: Path, text: str) -> dict[str, Any]:
    try:
        raw = json.loads(text, object_pairs_hook=container.unique)
    except (ValueError, RecursionError) as error:
        raise BadArtifact(f"{path.name}: the metadata {METADATA_KEY!r} is not JSON: {error}") from error
    found = raw.get("format") if isinstance(raw, dict) else None
    if found != FORMAT:
        raise BadArtifact(f"{path.name}: format {found!r} is not known, only {FORMAT}; use the release that wrote it")
    if not isinstance(raw.get("tensors"), dict):
        raise BadArtifact(f"{path.name}: the metadata {METADATA_KEY!r} must hold an object 'tensors'")
    structure = raw.get("structure", [])
    if not isinstance(structure, list) or not all(isinstance(edit, dict) for edit in structure):
        raise BadArtifact(f"{path.name}: the metadata {METADATA_KEY!r} must hold a list of objects 'structure', or none")
    described: dict[str, Any] = raw
    return described


def _weight(name: str, raw: Any, tensors: dict[str, torch.Tensor]) -> Weight:
    codec = raw.get("codec") if isinstance(raw, dict) else None
    if codec == dense.NAME:
        return Plain(data=_take(tensors, name, ""))
    if codec == bfloat16.NAME:
        data = _take(tensors, name, "")
        bfloat16.check(data, name=name)
        return Plain(codec=codec, data=data)
    if not isinstance(codec, str) or codec not in CODECS:
        known = ", ".join((dense.NAME, bfloat16.NAME, *CODECS))
        raise BadArtifact(f"tensor {name!r}: codec {codec!r} is not known; use one of {known}")
    descriptor = {key: value for key, value in raw.items() if key != "codec"}
    scale = descriptor.pop("activationScale", None)
    if scale is not None and not (isinstance(scale, float) and 0 < scale < math.inf):
        raise BadArtifact(f"tensor {name!r}: activationScale {scale!r} must be a number above 0")
    weight = CODECS[codec].read(name, descriptor, partial(_take, tensors, name))
    weight.activation_scale = scale
    return weight


def _take(tensors: dict[str, torch.Tensor], name: str, end: str) -> torch.Tensor:
    stored = part_name(name, end)
    if stored not in tensors:
        raise BadArtifact(f"tensor {stored!r}: has a descriptor, but is not stored")
    return tensors.pop(stored)
