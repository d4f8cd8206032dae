"""Opening a big weights file beside its physical limits: `python -m benchmarks.compression.load [--json file]`.

    load_vs_read = (time to check, map and touch it - 20 ms) / max(reading it, hashing it), medians of interleaved rounds

Ours: every chunk's digest checked, the weights (float32, codes of 8 and of 4 bits) read from the file and prepared for
kernels, every page of every tensor touched. Reading:
`readinto` a buffer whose pages are there already. Hashing: SHA-256 of bytes in memory, one thread. `cold`: no page of
the file is in the page cache (asked of the kernel with mincore, else not measured). Memory: the most that a fresh
process holds while it opens the file, over what it held before.
"""

import argparse
import ctypes
import hashlib
import json
import mmap
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.compression.figures import Figure
from benchmarks.compression.tables import show
from benchmarks.serving.venvs import cache
from modelmill.artifact import digests
from modelmill.artifact.manifest import File
from modelmill.compress.codecs.coded import CodedWeight
from modelmill.compress.codes import Codes
from modelmill.compress.weights import Plain, Weight, read_weights, write_weights

DENSE, EIGHT_BITS, FOUR_BITS = 8, 6, 4
"""Weights of each kind: 268, 201 and 67 MB."""
ROWS, COLUMNS = 4096, 8192
"""Of a coded weight; a dense one has a quarter of the columns."""
GRACE_SECONDS = 0.02
WARM, COLD = "warm", "cold"
FEW = 0.01
"""Of a file's pages: what may be cached when it is called cold."""
MEMORY_CONSTANT = 16 << 20
"""Bytes that opening may hold besides the file, whatever its size: buffers of the threads that hash, allocator's slack."""


@dataclass(frozen=True, slots=True)
class Published:
    path: Path
    file: File


def publish(folder: Path) -> Published:
    path = folder / "big.safetensors"
    torch.manual_seed(0)
    weights: dict[str, Weight] = {f"dense.{i}": Plain(data=torch.randn(ROWS, COLUMNS // 4)) for i in range(DENSE)}
    weights |= {f"eight.{i}": CodedWeight.of(_codes(torch.int8, bits=8)) for i in range(EIGHT_BITS)}
    weights |= {f"four.{i}": CodedWeight.of(_codes(torch.uint8, bits=4)) for i in range(FOUR_BITS)}
    write_weights(path, weights)
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        return Published(path, digests.describe(stream, path=path.name))


def _codes(dtype: torch.dtype, *, bits: int) -> Codes:
    codes = torch.randint(-127 if bits == 8 else 0, 128 if bits == 8 else 16, (ROWS, COLUMNS), dtype=dtype)
    levels = None if bits == 8 else torch.arange(-8, 8, dtype=torch.int8)
    return Codes(grid="Uniform", codes=codes, bits=bits, scale=torch.ones(ROWS, 1), shape=(ROWS, COLUMNS), levels=levels)


def ours(published: Published) -> None:
    with published.path.open("rb") as stream:
        digests.verify_open(stream.fileno(), published.file, where=str(published.path))
    for weight in read_weights(published.path).tensors.values():
        if isinstance(weight, Plain):
            parts = [weight.data]
        else:
            weight.prepare()
            parts = list(weight.tensors().values())
        for part in parts:
            part.reshape(-1).view(torch.uint8)[:: mmap.PAGESIZE].max()


def reading(published: Published, buffer: bytearray) -> None:
    with published.path.open("rb", buffering=0) as stream:
        view, got = memoryview(buffer), 0
        while count := stream.readinto(view[got:]):
            got += count
    if got != len(buffer):
        raise RuntimeError(f"read {got} of {len(buffer)} bytes")


def hashing(buffer: bytearray, wanted: str) -> None:
    if f"sha256:{hashlib.sha256(buffer).hexdigest()}" != wanted:
        raise RuntimeError("the digest is not that of the file")


def measured(published: Published, *, state: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of each way, round by round."""
    buffer = bytearray(published.file.bytes)
    reading(published, buffer)
    ways: dict[str, Callable[[], None]] = {
        "ours": lambda: ours(published),
        "readinto": lambda: reading(published, buffer),
        "hash": lambda: hashing(buffer, published.file.digest),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            if state == COLD and name != "hash":
                drop(published.path)
            began = time.perf_counter()
            way()
            found[name].append(time.perf_counter() - began)
    return found


def drop(path: Path) -> None:
    """Empties the page cache of the file, and makes sure."""
    with path.open("rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if (share := cached(stream.fileno())) > FEW:
            raise SystemExit(f"{path}: {share:.0%} of it stays in the page cache here: cold loading cannot be measured")


def cached(descriptor: int) -> float:
    """The share of a file's pages that are in the page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ | mmap.PROT_WRITE, flags=mmap.MAP_PRIVATE) as mapped:
        pages = -(-len(mapped) // mmap.PAGESIZE)
        flags = (ctypes.c_ubyte * pages)()
        start = (ctypes.c_char * len(mapped)).from_buffer(mapped)
        failed = libc.mincore(ctypes.byref(start), ctypes.c_size_t(len(mapped)), flags)
        del start
    if failed:
        raise OSError(ctypes.get_errno(), "mincore")
    return sum(flag & 1 for flag in flags) / pages


def ratio(state: str, found: dict[str, list[float]]) -> Figure:
    """Round by round, against whichever of the two limits is higher."""
    limits = [max(pair) for pair in zip(found["readinto"], found["hash"], strict=True)]
    each = [(own - GRACE_SECONDS) / limit for own, limit in zip(found["ours"], limits, strict=True)]
    seconds = ", ".join(f"{name} {statistics.median(times):.3f} s" for name, times in found.items())
    name = "load_vs_read" if state == WARM else "load_vs_read_cold"
    return Figure(name=name, value=statistics.median(each), low=min(each), high=max(each), against=seconds)


def memory(published: Published) -> Figure:
    """In a process of its own: the peak of a process never falls."""
    entry = json.dumps([str(published.path), published.file.digest, published.file.chunk_bytes, published.file.chunks])
    command = [sys.executable, "-m", "benchmarks.compression.load", "--child"]
    told = subprocess.run(command, input=entry, capture_output=True, text=True, check=True).stdout
    grown = json.loads(told)["grown"]
    if grown < published.file.bytes // 2:
        raise RuntimeError(f"{grown} bytes more for a file of {published.file.bytes}: its pages were not counted")
    value = (grown - MEMORY_CONSTANT) / published.file.bytes
    against = f"{grown / 1e6:.0f} MB more for {published.file.bytes / 1e6:.0f}, less {MEMORY_CONSTANT / 1e6:.0f}"
    return Figure(name="load_peak_memory_ratio", value=value, low=value, high=value, against=against)


def child() -> None:
    path, digest, chunk_bytes, chunks = json.loads(sys.stdin.read())
    size = Path(path).stat().st_size
    published = Published(
        Path(path), File(path="big.safetensors", bytes=size, digest=digest, chunk_bytes=chunk_bytes, chunks=tuple(chunks))
    )
    torch.ones(4).max()
    before = peak_bytes()
    ours(published)
    print(json.dumps({"grown": peak_bytes() - before}))


def peak_bytes() -> int:
    """The most that this process has held. Not `ru_maxrss`: a process inherits that from the one that started it."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.compression.load", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child()
        return
    found = figures(rounds=arguments.rounds)
    show(found)
    if arguments.json:
        arguments.json.write_text(json.dumps({"must": [figure.entry() for figure in found]}, indent=1) + "\n")


def figures(*, rounds: int) -> list[Figure]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="load-", dir=cache()) as folder:
        published = publish(Path(folder))
        found = [ratio(state, measured(published, state=state, rounds=rounds)) for state in (WARM, COLD)]
        return [*found, memory(published)]


if __name__ == "__main__":
    main()
