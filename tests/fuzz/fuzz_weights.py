"""Fuzzes the reader of weights files: container, descriptors, every codec's `read` and `decode`, edits of structure.

python -m tests.fuzz.fuzz_weights CORPUS... [-max_total_time=600 and other options of libFuzzer]

Whatever the bytes are, they are read or refused with BadArtifact, and what was read can be decoded, without more memory than
a fixed multiple of the file. Anything else ends the run, with the file in crash-*.
"""

import math
import os
import resource
import sys
from pathlib import Path

import atheris
from torch import nn

with atheris.instrument_imports(include=["modelmill.compress", "modelmill.kernels"]):
    from modelmill.compress.errors import BadArtifact
    from modelmill.compress.structure import apply_edits, from_json
    from modelmill.compress.weight import CompressedWeight
    from modelmill.compress.weights import read_weights

from tests.fuzz.mutate import mutate

_FILE = Path("/dev/shm" if Path("/dev/shm").is_dir() else "/tmp", f"modelmill-fuzz-{os.getpid()}")
_GROWTH_KIB = 64 << 10
"""That one small file may add to the most memory ever in use."""
_LARGEST_BYTES = 1 << 16
_LARGEST_DECODED = 1 << 20
_WARM_UP = 2000
_seen = {"files": 0, "accepted": 0}


class Small(nn.Module):
    """What the edits of structure are done to."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc, self.heads = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Linear(4, 4), 2


class Grown(Exception):
    """A small file took much memory."""


def one_file(data: bytes) -> None:
    _FILE.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        stored = read_weights(_FILE)
        apply_edits(Small(), from_json(stored.structure))
        for weight in stored.tensors.values():
            # Blocks that are not kept take no bytes: only the module that a file is for says whether its shape is right.
            if isinstance(weight, CompressedWeight) and math.prod(weight.shape) <= _LARGEST_DECODED:
                weight.decode()
                weight.prepare()
        _seen["accepted"] += 1
    except BadArtifact:
        pass
    _seen["files"] += 1
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    # Before, it is the interpreter that grows.
    if _seen["files"] > _WARM_UP and grown > _GROWTH_KIB and len(data) <= _LARGEST_BYTES:
        raise Grown(f"{len(data)} bytes took {grown} KiB")


def mutated(data: bytes, most: int, seed: int) -> bytes:
    changed = mutate(data, most=most, seed=seed) if seed % 4 else None
    return atheris.Mutate(data, most) if changed is None else changed


def main() -> None:
    atheris.Setup(sys.argv, one_file, custom_mutator=mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
