"""Writes compressed-tensors: model.safetensors, and config.json with the `quantization_config` that says what is in it.

Every weight of a linear layer that is codes can be said exactly: its levels are whole numbers (`numbers.numbers_of`).

    int-quantized   8 bits, one scale a channel, no zeros:  weight int8 [N, K]           weight_scale float32 [N, 1]
    pack-quantized  the rest, 2 to 8 bits:                  weight_packed int32 [N, W]   weight_scale float32 [N, G]
                    weight_shape int64 [2]    weight_zero_point int32 [words of N, G]: packed along N

Packed is the dense stream of bits of release 0.17 and later. What is not codes (blocks, sparse), and convolutions, which
compressed-tensors refuses to quantize, are written dense with a note. Reads of `formats.compressed_tensors_read`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from modelmill.compress import container
from modelmill.compress.codecs.coded import CodedWeight
from modelmill.compress.errors import CompressionError
from modelmill.compress.formats import bits
from modelmill.compress.formats.numbers import Numbers, numbers_of, unsigned
from modelmill.compress.weights import Plain, Weight

METHOD = "compressed-tensors"
VERSION = "0.20.0"
"""The release whose format is written."""
WEIGHTS, CONFIG = "model.safetensors", "config.json"
INT, PACKED, MIXED = "int-quantized", "pack-quantized", "mixed-precision"
_OWNER = ".weight"


def export(weights: Mapping[str, Weight], folder: Path, *, strict: bool = False) -> list[str]:
    """Writes both files; a note for each weight that became dense or wider, which `strict` makes a CompressionError."""
    tensors: dict[str, torch.Tensor] = {}
    schemes: dict[str, dict[str, Any]] = {}
    notes: list[str] = []
    for name, weight in weights.items():
        if isinstance(weight, Plain):
            tensors[name] = weight.data
            continue
        reason = _refusal(name, weight)
        if reason is not None:
            notes.append(f"{name}: written dense, {reason}")
            tensors[name] = weight.decode()
            continue
        assert isinstance(weight, CodedWeight)
        found = numbers_of(weight)
        if found.bits > weight.bits:
            notes.append(f"{name}: {weight.bits} bits of {weight.grid} written as {found.bits}, which is what its levels take")
        parts, schemes[name.removesuffix(_OWNER)] = _parts(found)
        tensors |= {f"{name}{end}": part for end, part in parts.items()}
    if strict and notes:
        raise CompressionError(f"{METHOD} cannot say all of it: {'; '.join(notes)}; export without --strict, or --to dense")
    folder.mkdir(parents=True, exist_ok=True)
    container.write(folder / WEIGHTS, tensors, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps({"quantization_config": _config(schemes)}, indent=2) + "\n")
    return notes


def _refusal(name: str, weight: Weight) -> str | None:
    """Why a compressed weight must be written dense."""
    if not isinstance(weight, CodedWeight):
        return f"codec {weight.codec!r} has no form there"
    if len(weight.shape) != 2:
        return "only linear layers are quantized there"
    return None if name.endswith(_OWNER) else f"a quantized weight's name ends in {_OWNER!r} there"


def _parts(found: Numbers) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Stored tensors by the end of their name, and the scheme."""
    groups = found.scale.shape[1]
    scheme = {
        "num_bits": found.bits,
        "type": "int",
        "symmetric": found.zero is None,
        "strategy": "channel" if groups == 1 else "group",
        "group_size": None if groups == 1 else found.shape[1] // groups,
        "dynamic": False,
    }
    if found.bits == 8 and groups == 1 and found.zero is None:
        return {"": found.numbers, "_scale": found.scale}, {"format": INT, "weights": scheme, "input_activations": _rows()}
    parts = {
        "_packed": bits.pack(unsigned(found.numbers, bits=found.bits), bits=found.bits),
        "_scale": found.scale,
        "_shape": torch.tensor(found.shape, dtype=torch.int64),
    }
    if found.zero is not None:
        parts["_zero_point"] = bits.pack(unsigned(found.zero.t(), bits=found.bits), bits=found.bits).t().contiguous()
    return parts, {"format": PACKED, "weights": scheme, "input_activations": None}


def _rows() -> dict[str, Any]:
    """Activations as our products take them: int8, a scale for each row, found when it comes."""
    return {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}


def _config(schemes: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    groups: dict[str, dict[str, Any]] = {}
    for module, scheme in schemes.items():
        groups.setdefault(json.dumps(scheme), {**scheme, "output_activations": None, "targets": []})["targets"].append(module)
    formats = {group["format"] for group in groups.values()}
    return {
        "quant_method": METHOD,
        "version": VERSION,
        "format": MIXED if len(formats) > 1 else min(formats, default="dense"),
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "ignore": [],
        "kv_cache_scheme": None,
        "sparsity_config": {},
        "transform_config": {},
        "config_groups": {f"group_{index}": group for index, group in enumerate(groups.values())},
    }
