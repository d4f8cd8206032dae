"""safetensors files: written so that big tensors can be mapped and computed on in place, read without trust.

The container is the public one (8 bytes of header length, a JSON header, one buffer) and any reader accepts what is
written here. Two liberties that it leaves are used: the header is padded with spaces so that the buffer begins at a
multiple of 64, and tensors whose size is a multiple of 64 bytes come first, so each of them begins at one too.
Reading maps the file privately: nothing is copied until a tensor is used, and every number of the header is checked
before the mapping is cut up.
"""

import json
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch

from modelmill.compress.errors import BadArtifact
from modelmill.compress.mapping import mapped

ALIGNMENT = 64
MAX_HEADER_BYTES = 16 << 20
MAX_DIMENSIONS = 16
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def write(path: Path, tensors: Mapping[str, torch.Tensor], *, metadata: Mapping[str, str]) -> int:
    """Writes the file, the same bytes for the same tensors; returns its size."""
    order = sorted(tensors, key=lambda name: (tensors[name].nbytes % ALIGNMENT != 0, -tensors[name].itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in _NAMES:
            raise BadArtifact(f"tensor {name!r}: dtype {tensor.dtype} cannot be stored; use one of {', '.join(_DTYPES)}")
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            file.write(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return 8 + len(text) + end


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors, mapped from the file, and its metadata. The file must not change while they are in use."""
    size = path.stat().st_size
    header, begin = _header(path, size=size)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise BadArtifact(f"{path.name}: __metadata__ must map strings to strings")
    entries = {name: _entry(name, raw) for name, raw in header.items()}
    _check_tiling(entries, room=size - begin)
    whole = mapped(path)
    return {name: _cut(name, whole, entry, begin=begin) for name, entry in entries.items()}, metadata


_Entry = tuple[torch.dtype, tuple[int, ...], int, int]


def _header(path: Path, *, size: int) -> tuple[dict[str, Any], int]:
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= MAX_HEADER_BYTES or 8 + length > size:
            raise BadArtifact(
                f"{path.name}: header of {length} bytes in a file of {size}; at most {MAX_HEADER_BYTES} are read: "
                "this is no safetensors file, or it was cut off"
            )
        text = file.read(length)
    try:
        # Decoded here: json would take UTF-16 too, which other readers of the format refuse.
        header = json.loads(text.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise BadArtifact(f"{path.name}: the header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise BadArtifact(f"{path.name}: the header must be a JSON object")
    return header, 8 + length


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads`: the object, or ValueError for a name that two readers could read differently."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _entry(name: str, raw: Any) -> _Entry:
    given = raw.get("dtype") if isinstance(raw, dict) else raw
    if not isinstance(raw, dict) or not isinstance(given, str) or given not in _DTYPES:
        raise BadArtifact(f"tensor {name!r}: dtype {given!r} is not one of {', '.join(_DTYPES)}")
    dtype, shape, offsets = _DTYPES[given], raw.get("shape"), raw.get("data_offsets")
    if not _counts(shape) or len(shape) > MAX_DIMENSIONS:
        raise BadArtifact(f"tensor {name!r}: shape {shape!r} must be at most {MAX_DIMENSIONS} numbers >= 0")
    if not _counts(offsets) or len(offsets) != 2:
        raise BadArtifact(f"tensor {name!r}: data_offsets {offsets!r} must be two numbers >= 0")
    start, end = offsets
    wanted, there = math.prod(shape) * dtype.itemsize, end - start
    if there != wanted:
        raise BadArtifact(f"tensor {name!r}: shape {shape} of {given} needs {wanted} bytes, data_offsets give {there}")
    if math.prod(size for size in shape if size) >= 1 << 63:  # with a 0 among them it needs no bytes, and torch cannot hold it
        raise BadArtifact(f"tensor {name!r}: shape {shape!r} is larger than any tensor")
    return dtype, tuple(shape), start, end


def _counts(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)


def _check_tiling(entries: Mapping[str, _Entry], *, room: int) -> None:
    """The tensors must fill the buffer without gap or overlap, as the format demands."""
    reached = 0
    for name, start, end in _by_position(entries):
        if start != reached or end > room:
            raise BadArtifact(f"tensor {name!r}: bytes {start} to {end} of a buffer of {room}, expected to begin at {reached}")
        reached = end
    if reached != room:
        raise BadArtifact(f"the tensors end at byte {reached}, the buffer at {room}: bytes are left over or missing")


def _by_position(entries: Mapping[str, _Entry]) -> Iterator[tuple[str, int, int]]:
    for name, (_, _, start, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        yield name, start, end


def _cut(name: str, whole: torch.Tensor, entry: _Entry, *, begin: int) -> torch.Tensor:
    dtype, shape, start, end = entry
    part = whole[begin + start : begin + end]
    if (begin + start) % dtype.itemsize:  # Another writer's file: an unaligned tensor cannot be used in place.
        part = part.clone()
    if dtype == torch.bool and part.numel() and int(part.max()) > 1:  # torch computes wrong things with such a bool
        raise BadArtifact(f"tensor {name!r}: a byte of a BOOL is {int(part.max())}, which is neither 0 nor 1")
    return part.view(dtype).view(shape)
