"""The arrays of the one request that a run sends: from files, or made up to fit the model's metadata."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from modelmill.client import TensorMetadata
from modelmill.datatypes import FLOATS, NUMPY, Array
from modelmill.failures import Fault

FREE = -1


class BadInput(Fault):
    """The request cannot be made; the message says which option to change."""

    reason = "BadInput"


def read(files: Mapping[str, Path]) -> dict[str, Array]:
    """Arrays that numpy.save wrote, all with the same number of rows as first dimension."""
    found = {name: _read(name, path) for name, path in files.items()}
    counts = {name: array.shape[0] for name, array in found.items()}
    if len(set(counts.values())) > 1:
        raise BadInput(f"--input: the files have different numbers of rows: {counts}")
    return found


def completed(
    given: Mapping[str, Array], *, tensors: Sequence[TensorMetadata], rows: int, length: int | None
) -> dict[str, Array]:
    """All inputs of the model: those that are given, and for the others made-up ones with as many rows."""
    names = [tensor.name for tensor in tensors]
    if unknown := [name for name in given if name not in names]:
        raise BadInput(f"--input {unknown[0]}: the model has no such input; it has {', '.join(names)}")
    rows = next((array.shape[0] for array in given.values()), rows)
    made = {t.name: _random(t, _shape(t, rows=rows, length=length)) for t in tensors if t.name not in given}
    return {name: given[name] if name in given else made[name] for name in names}


def _read(name: str, path: Path) -> Array:
    try:
        array: Array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadInput(f"--input {name}={path}: not a file that numpy.save wrote: {error}") from error
    if array.ndim == 0:
        raise BadInput(f"--input {name}={path}: a single number; the first dimension must be the rows")
    return array


def _shape(tensor: TensorMetadata, *, rows: int, length: int | None) -> list[int]:
    first, *rest = tensor.shape or (FREE,)
    if first not in (FREE, rows):
        raise BadInput(
            f"input {tensor.name!r} has shape {list(tensor.shape)}: it takes {first} rows, not {rows}; give --rows {first}"
        )
    if FREE in rest and length is None:
        raise BadInput(
            f"input {tensor.name!r} has shape {list(tensor.shape)}: give its free sizes with --length N, or the whole input "
            f"with --input {tensor.name}=FILE.npy"
        )
    return [rows, *(length or 0 if size == FREE else size for size in rest)]


def _random(tensor: TensorMetadata, shape: list[int]) -> Array:
    """Values that most models accept: integers are 0 or 1, which are tokens, flags and masks alike."""
    source = np.random.default_rng(0)
    if tensor.datatype == "BYTES":
        texts: Array = np.full(shape, b"modelmill", dtype=object)
        return texts
    if tensor.datatype not in NUMPY:
        raise BadInput(f"input {tensor.name!r} has datatype {tensor.datatype!r}, which is none of the protocol's")
    if tensor.datatype in FLOATS:
        # The codec rounds to BF16 itself.
        dtype = np.dtype(np.float32) if tensor.datatype == "BF16" else NUMPY[tensor.datatype]
        return source.standard_normal(shape).astype(dtype)
    most = 256 if tensor.datatype == "UINT8" else 2
    return source.integers(0, most, shape).astype(NUMPY[tensor.datatype])
