"""Memory for a request's body while it arrives, whichever version of HTTP brings it."""

import numpy as np

from modelmill.serve.http import Bytes

DIRECT_BYTES = 64 << 10
"""Bodies from this size on are received where they stay."""
ALIGNMENT = 64
HEADER_LENGTH = "inference-header-content-length"


def aligned(length: int, header_length: str) -> memoryview:
    """Memory for a body (not zeroed), so placed that what follows its JSON header begins at a multiple of ALIGNMENT."""
    skip = int(header_length) if header_length.isascii() and header_length.isdigit() else 0
    memory = np.empty(length + ALIGNMENT, np.uint8)
    offset = -(memory.ctypes.data + skip) % ALIGNMENT
    return memory[offset : offset + length].data


class Body:
    """A body that comes in pieces which its receiver does not keep: HTTP/2's.

    Where a large one's length is announced, its memory is reserved at once, which takes none before bytes arrive.
    """

    __slots__ = ("_grown", "_reserved", "received")

    def __init__(self, length: int | None, *, header_length: str) -> None:
        self._reserved = aligned(length, header_length) if length is not None and length >= DIRECT_BYTES else None
        self._grown = bytearray()
        self.received = 0
        """Bytes."""

    def add(self, piece: memoryview) -> None:
        """Never more than was announced."""
        end = self.received + len(piece)
        if self._reserved is None:
            self._grown += piece
        else:
            self._reserved[self.received : end] = piece
        self.received = end

    @property
    def content(self) -> Bytes:
        return self._grown if self._reserved is None else self._reserved
