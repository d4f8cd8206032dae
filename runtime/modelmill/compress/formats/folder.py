"""Weights from elsewhere: a file of ours, a plain safetensors file, or a folder whose config.json says how it is quantized."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modelmill.compress.errors import BadArtifact
from modelmill.compress.formats import awq, compressed_tensors_read, gptq
from modelmill.compress.formats.tensors import SINGLE, Tensors, read_json, tensors_in
from modelmill.compress.weights import Plain, Weights, read_weights

CONFIG = "config.json"
_KEYS = ("quantization_config", "compression_config")
_READERS: dict[str, Callable[[Mapping[str, Any], Tensors], Any]] = {
    compressed_tensors_read.METHOD: compressed_tensors_read.read,
    awq.METHOD: awq.read,
    gptq.METHOD: gptq.read,
}


def read_any(path: Path) -> Weights:
    """Every weight of a file, or of a folder. Raises BadArtifact."""
    if not path.is_dir():
        return read_weights(path)
    config = _quantization(path)
    if config is None:
        if (path / SINGLE).is_file():
            return read_weights(path / SINGLE)
        tensors = tensors_in(path)
        return Weights(tensors={name: Plain(data=tensors.take(name)) for name in tensors.names()})
    method = config.get("quant_method")
    reader = _READERS.get(method) if isinstance(method, str) else None
    if reader is None:
        raise BadArtifact(f"{CONFIG}: quant_method {method!r} is not known; use one of {', '.join(_READERS)}")
    return Weights(tensors=reader(config, tensors_in(path)))


def _quantization(folder: Path) -> dict[str, Any] | None:
    if not (folder / CONFIG).is_file():
        return None
    config = read_json(folder / CONFIG)
    found = next((config[key] for key in _KEYS if config.get(key) is not None), None)
    if found is not None and not isinstance(found, dict):
        raise BadArtifact(f"{CONFIG}: quantization_config must be an object")
    return found
