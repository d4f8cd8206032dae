"""The usual request of a client that repeats itself: headers that came before, one DATA frame with all of the body, windows.

Clients send the frames of a small request together, and so they are read together. To see that they are these costs a third
of reading them one by one; whatever is not exactly so is left to the reader.
"""

import struct
from typing import NamedTuple

from modelmill.serve.http2.frames import DATA, END_HEADERS, END_STREAM, HEAD, HEAD_BYTES, HEADERS, LARGEST, WINDOW_UPDATE, head

_UPDATE = struct.Struct(">BHBBLL")
"""A WINDOW_UPDATE, and of any longer frame the head."""
_CREDIT = head(WINDOW_UPDATE, 0, 0, 4)
LEAST_BYTES = 2 * HEAD_BYTES + _UPDATE.size


class Usual(NamedTuple):
    stream: int
    block: bytes
    """Headers, compressed."""
    window: int
    """By how much the client opens the stream's window at once."""
    credit: int
    """The same of the connection's."""
    begin: int
    """Of the body within the bytes that were read."""
    size: int
    """Of the body."""
    end: int
    """Of the request."""


def usual(data: memoryview) -> Usual | None:
    """The request that `data` begins with, of at least LEAST_BYTES."""
    size = len(data)
    high, low, kind, flags, stream = HEAD.unpack_from(data)
    at = HEAD_BYTES + low
    if kind != HEADERS or flags != END_HEADERS or high or at + _UPDATE.size > size or not 0 < stream <= LARGEST:
        return None
    block = bytes(data[HEAD_BYTES:at])
    window = credit = 0
    high, low, kind, flags, number, value = _UPDATE.unpack_from(data, at)
    if kind == WINDOW_UPDATE:
        at += _UPDATE.size
        if high or low != 4 or number != stream or at + HEAD_BYTES > size or not 0 < value <= LARGEST:
            return None
        window = value
        high, low, kind, flags, number = HEAD.unpack_from(data, at)
    begin = at + HEAD_BYTES
    body = high << 16 | low
    end = begin + body
    if kind != DATA or flags != END_STREAM or number != stream or end > size:
        return None
    if end + _UPDATE.size <= size and data[end : end + HEAD_BYTES] == _CREDIT:
        credit = _UPDATE.unpack_from(data, end)[-1] & LARGEST
        end += _UPDATE.size if credit else 0
    return Usual(stream, block, window, credit, begin, body, end)
