"""The weights file of a variant: a safetensors file whose metadata says how each weight is stored.

    __metadata__["modelmill"] = {"format": 1, "tensors": {
        "fc.weight": {"codec": "uniform-int8", "bits": 8, "scale": "fc.weight_scale"},
        "fc.bias":   {"codec": "dense"}, ...}}

Names are those of the module's state dict; what a codec stores besides (scales) is named by its descriptor. A plain
safetensors file, without this metadata, is read as dense throughout, so models from elsewhere need no conversion.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from modelmill.compress import container
from modelmill.compress.codecs import bfloat16, dense, uniform
from modelmill.compress.errors import BadArtifact

METADATA_KEY = "modelmill"
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """One weight as stored: `data` are its values, or its codes with a `scale`."""

    codec: str
    data: torch.Tensor
    scale: torch.Tensor | None = None


def dense_weight(data: torch.Tensor) -> Weight:
    return Weight(codec=dense.NAME, data=data)


def write_weights(path: Path, weights: Mapping[str, Weight]) -> int:
    """Writes the file and returns its size."""
    tensors: dict[str, torch.Tensor] = {}
    descriptors: dict[str, dict[str, Any]] = {}
    for name, weight in weights.items():
        tensors[name] = weight.data
        descriptors[name] = {"codec": weight.codec}
        if weight.scale is not None:
            if scale_name(name) in weights:
                raise BadArtifact(f"tensor {scale_name(name)!r}: the scales of {name!r} need this name; rename it in the recipe")
            tensors[scale_name(name)] = weight.scale
            descriptors[name] |= {"bits": uniform.BITS, "scale": scale_name(name)}
    text = json.dumps({"format": FORMAT, "tensors": descriptors}, separators=(",", ":"), sort_keys=True)
    return container.write(path, tensors, metadata={METADATA_KEY: text})


def scale_name(name: str) -> str:
    return f"{name}_scale"


def read_weights(path: Path) -> dict[str, Weight]:
    """Every weight of the file by its name; data stay in the file until they are used."""
    tensors, metadata = container.read(path)
    if METADATA_KEY not in metadata:
        return {name: dense_weight(tensor) for name, tensor in tensors.items()}
    weights = {name: _weight(name, raw, tensors) for name, raw in _descriptors(path, metadata[METADATA_KEY]).items()}
    if tensors:
        raise BadArtifact(f"tensor {min(tensors)!r}: stored, but no descriptor speaks of it")
    return weights


def _descriptors(path: Path, text: str) -> dict[str, Any]:
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadArtifact(f"{path.name}: the metadata {METADATA_KEY!r} is not JSON: {error}") from error
    found = raw.get("format") if isinstance(raw, dict) else None
    if found != FORMAT:
        raise BadArtifact(f"{path.name}: format {found!r} is not known, only {FORMAT}; use the release that wrote it")
    if not isinstance(raw.get("tensors"), dict):
        raise BadArtifact(f"{path.name}: the metadata {METADATA_KEY!r} must hold an object 'tensors'")
    descriptors: dict[str, Any] = raw["tensors"]
    return descriptors


def _weight(name: str, raw: Any, tensors: dict[str, torch.Tensor]) -> Weight:
    codec = raw.get("codec") if isinstance(raw, dict) else None
    if codec == dense.NAME:
        return dense_weight(_take(name, tensors))
    if codec == bfloat16.NAME:
        data = _take(name, tensors)
        bfloat16.check(data, name=name)
        return Weight(codec=codec, data=data)
    if codec != uniform.NAME:
        known = ", ".join((dense.NAME, bfloat16.NAME, uniform.NAME))
        raise BadArtifact(f"tensor {name!r}: codec {codec!r} is not known; use one of {known}")
    if raw.get("bits") != uniform.BITS:
        raise BadArtifact(f"tensor {name!r}: bits {raw.get('bits')!r} must be {uniform.BITS}")
    if raw.get("scale") != scale_name(name):
        raise BadArtifact(f"tensor {name!r}: scale {raw.get('scale')!r} must be {scale_name(name)!r}")
    data, scale = _take(name, tensors), _take(scale_name(name), tensors)
    uniform.check(data, scale, name=name)
    return Weight(codec=codec, data=data, scale=scale)


def _take(name: str, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    if name not in tensors:
        raise BadArtifact(f"tensor {name!r}: has a descriptor, but is not stored")
    return tensors.pop(name)
