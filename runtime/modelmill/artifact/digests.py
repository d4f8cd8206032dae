"""SHA-256 of files, whole and in chunks, in one pass."""

import hashlib
from collections.abc import Callable
from typing import BinaryIO

from modelmill.artifact.errors import DigestMismatch
from modelmill.artifact.manifest import File

CHUNK_BYTES = 4 << 20


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
            start = index * file.chunk_bytes
            raise DigestMismatch(
                f"{where}: bytes {start} to {start + size} are not those that were published; restore the file or publish anew"
            )
        sink(chunk)
    if stream.read(1):
        raise DigestMismatch(f"{where}: it is longer than the {file.bytes} bytes that were published")


def _read(stream: BinaryIO, size: int) -> bytes:
    """Exactly `size` bytes unless the stream ends."""
    parts = []
    while size > 0 and (part := stream.read(size)):
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
