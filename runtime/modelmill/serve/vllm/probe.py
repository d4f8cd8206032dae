"""Short questions to vLLM over its socket: is it healthy, and what does it count."""

import asyncio
from pathlib import Path

HEALTH = "/health"
METRICS = "/metrics"
SECONDS = 4.0
"""Less than the kubelet waits for an answer of ours."""
FAMILIES = "vllm:"
_COMMENTS = ("# HELP ", "# TYPE ")


async def ask(socket: Path, path: str) -> bytes | None:
    """The body of the answer; None when there is none in time, or when it is not 200."""
    try:
        async with asyncio.timeout(SECONDS):
            return await _ask(socket, path)
    except (OSError, TimeoutError):
        return None


async def _ask(socket: Path, path: str) -> bytes | None:
    reader, writer = await asyncio.open_unix_connection(str(socket))
    try:
        # HTTP/1.0: an answer without chunks, which ends with the connection.
        writer.write(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
    finally:
        writer.close()
    return body if head.split(b" ", 2)[1:2] == [b"200"] else None


def own_families(text: bytes) -> bytes:
    """What vLLM counts itself: the rest is of Python and its process, in the names that ours has too."""
    lines = text.decode(errors="replace").splitlines(keepends=True)
    kept = (line for line in lines if line.removeprefix(_COMMENTS[0]).removeprefix(_COMMENTS[1]).startswith(FAMILIES))
    return "".join(kept).encode()
