"""The tensors of a folder as other tools leave them: one safetensors file, or several with an index. Nothing is trusted."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from modelmill.compress import container
from modelmill.compress.errors import BadArtifact

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
MOST_JSON_BYTES = 64 << 20


class Tensors:
    """Each is taken once; what is left is what nobody asked for."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self._tensors = dict(tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def names(self) -> list[str]:
        return list(self._tensors)

    def take(self, name: str, *, dtypes: Sequence[torch.dtype] = (), dimensions: Sequence[int] = ()) -> torch.Tensor:
        if name not in self._tensors:
            raise BadArtifact(f"tensor {name!r}: is needed, but not stored")
        tensor = self._tensors.pop(name)
        if dtypes and tensor.dtype not in dtypes:
            raise BadArtifact(f"tensor {name!r}: {tensor.dtype} is not one of {', '.join(map(str, dtypes))}")
        if dimensions and tensor.dim() not in dimensions:
            raise BadArtifact(
                f"tensor {name!r}: shape {list(tensor.shape)} must have {' or '.join(map(str, dimensions))} dimensions"
            )
        return tensor


def tensors_in(folder: Path) -> Tensors:
    if (folder / SINGLE).is_file():
        return Tensors(container.read(folder / SINGLE)[0])
    if not (folder / INDEX).is_file():
        raise BadArtifact(f"{folder}: it has neither {SINGLE} nor {INDEX}")
    listed = read_json(folder / INDEX).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(file, str) for file in listed.values()):
        raise BadArtifact(f"{INDEX}: weight_map must map names to files")
    found: dict[str, torch.Tensor] = {}
    for file in sorted(set(listed.values())):
        if Path(file).name != file or not (folder / file).is_file():
            raise BadArtifact(f"{INDEX}: {file!r} is no file of the folder")
        for name, tensor in container.read(folder / file)[0].items():
            if listed.get(name) == file:
                found[name] = tensor
    missing = sorted(listed.keys() - found.keys())
    if missing:
        raise BadArtifact(f"{INDEX}: tensor {missing[0]!r} is not in the file that it names")
    return Tensors(found)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object."""
    size = path.stat().st_size
    if size > MOST_JSON_BYTES:
        raise BadArtifact(f"{path.name}: {size} bytes, at most {MOST_JSON_BYTES} are read")
    try:
        found = json.loads(path.read_bytes().decode())
    except (ValueError, RecursionError) as error:
        raise BadArtifact(f"{path.name}: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise BadArtifact(f"{path.name}: must be a JSON object")
    return found
