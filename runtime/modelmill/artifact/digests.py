"""SHA-256 of files, whole and in chunks, in one pass; files on a volume are checked by several threads."""

import hashlib
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

from modelmill.artifact.errors import DigestMismatch
from modelmill.artifact.manifest import File

CHUNK_BYTES = 4 << 20
THREADS = 4
"""At most; two even on one core, so that one hashes while the other waits for the disk."""
PIECE_BYTES = 1 << 20
"""Read and hashed at a time: still in the core's cache when it is hashed."""


def describe(stream: BinaryIO, *, path: str, chunk_bytes: int = CHUNK_BYTES) -> File:
    """The entry of the manifest for what the stream holds."""
    whole, chunks, size = hashlib.sha256(), [], 0
    while chunk := _read(stream, chunk_bytes):
        whole.update(chunk)
        chunks.append(hashlib.sha256(chunk).hexdigest())
        size += len(chunk)
    return File(path=path, bytes=size, digest=f"sha256:{whole.hexdigest()}", chunk_bytes=chunk_bytes, chunks=tuple(chunks))


def verify(stream: BinaryIO, file: File, *, where: str, sink: Callable[[bytes], object] = lambda chunk: None) -> None:
    """Checks every chunk, and hands on only what was checked."""
    for index, wanted in enumerate(file.chunks):
        size = min(file.chunk_bytes, file.bytes - index * file.chunk_bytes)
        chunk = _read(stream, size)
        if len(chunk) != size:
            raise DigestMismatch(f"{where}: it ends after {index * file.chunk_bytes + len(chunk)} of {file.bytes} bytes")
        if hashlib.sha256(chunk).hexdigest() != wanted:
            raise _changed(where, start=index * file.chunk_bytes, size=size)
        sink(chunk)
    if stream.read(1):
        raise DigestMismatch(f"{where}: it is longer than the {file.bytes} bytes that were published")


def verify_open(descriptor: int, file: File, *, where: str) -> None:
    """Checks every chunk of an open file on a volume; several threads read and hash, with a small buffer each.

    The file is read, not mapped: one that is cut off meanwhile is then told of, where a mapping would end the process.
    """
    size = os.fstat(descriptor).st_size
    if size < file.bytes:
        raise DigestMismatch(f"{where}: it ends after {size} of {file.bytes} bytes")
    if size > file.bytes:
        raise DigestMismatch(f"{where}: it is longer than the {file.bytes} bytes that were published")
    threads = min(max(2, min(THREADS, len(os.sched_getaffinity(0)))), len(file.chunks))
    if not threads:
        return
    # `next` on a counter is atomic: each thread takes the next chunk, so the disk sees one stream of reads.
    turns = itertools.count()
    with ThreadPoolExecutor(threads, thread_name_prefix="digest") as pool:
        for told in [pool.submit(_verify_some, descriptor, file, turns, where) for _ in range(threads)]:
            told.result()


def _verify_some(descriptor: int, file: File, turns: "itertools.count[int]", where: str) -> None:
    """Checks chunks until there are no more. After a failure the other threads end their work, which is wasted only then."""
    buffer = memoryview(bytearray(min(PIECE_BYTES, file.chunk_bytes)))
    while (index := next(turns)) < len(file.chunks):
        start = index * file.chunk_bytes
        size = min(file.chunk_bytes, file.bytes - start)
        found, at = hashlib.sha256(), start
        while at < start + size and (got := os.preadv(descriptor, [buffer[: start + size - at]], at)):
            found.update(buffer[:got])
            at += got
        if found.hexdigest() != file.chunks[index]:
            raise _changed(where, start=start, size=size)


def _changed(where: str, *, start: int, size: int) -> DigestMismatch:
    return DigestMismatch(
        f"{where}: bytes {start} to {start + size} are not those that were published; restore the file or publish anew"
    )


def _read(stream: BinaryIO, size: int) -> bytes:
    """Exactly `size` bytes unless the stream ends."""
    parts = []
    while size > 0 and (part := stream.read(size)):
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
