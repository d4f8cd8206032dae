"""HTTP/2's frames (RFC 9113, section 6): their numbers, how they are written, and what is wrong with some."""

import enum
import struct
from collections.abc import Sequence

from modelmill.serve.native import fastpath

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES = 9
HEAD = struct.Struct(">BHBBL")
"""Length (24 bits, in two numbers), type, flags, stream."""

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

ACK = END_STREAM = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITIZED = 0x20

MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 3, 4, 5, 6
ENABLE_PUSH = 2

DEFAULT_WINDOW = 65_535
DEFAULT_FRAME = 16_384
LARGEST = 2**31 - 1
"""Of windows and stream numbers."""


class Error(enum.IntEnum):
    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class ConnectionFailed(Exception):
    """The peer broke a rule of the connection, which ends."""

    def __init__(self, code: Error, message: str) -> None:
        super().__init__(message)
        self.code = code


class StreamFailed(Exception):
    """The peer broke a rule of one stream, which ends."""

    def __init__(self, stream: int, code: Error) -> None:
        super().__init__(f"stream {stream}: {code.name}")
        self.stream = stream
        self.code = code


def head(kind: int, flags: int, stream: int, size: int) -> bytes:
    return HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream)


def parse_head(data: memoryview, position: int) -> tuple[int, int, int, int]:
    """Size, type, flags and stream."""
    high, low, kind, flags, stream = HEAD.unpack_from(data, position)
    return high << 16 | low, kind, flags, stream & LARGEST


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return head(kind, flags, stream, len(payload)) + payload


def number(kind: int, stream: int, value: int) -> bytes:
    """A frame whose payload is one number: RST_STREAM, WINDOW_UPDATE."""
    return head(kind, 0, stream, 4) + value.to_bytes(4, "big")


def answer(
    stream: int, headers: bytes | None, data: Sequence[bytes | memoryview], size: int, last: bool, trailers: bytes | None
) -> list[bytes | memoryview]:
    """Headers, data of `size` bytes, with `last` the stream's last, and trailers, which end it; as far as there are any."""
    pieces: list[bytes | memoryview] = []
    if headers is not None:
        pieces += (head(HEADERS, END_HEADERS, stream, len(headers)), headers)
    if size or last:
        pieces += (head(DATA, END_STREAM if last else 0, stream, size), *data)
    if trailers is not None:
        pieces += (head(HEADERS, END_HEADERS | END_STREAM, stream, len(trailers)), trailers)
    return pieces


def joined_answer(
    stream: int, headers: bytes | None, data: Sequence[bytes | memoryview], size: int, last: bool, trailers: bytes | None, /
) -> bytes:
    """The same in one piece of memory."""
    return b"".join(answer(stream, headers, data, size, last, trailers))


if fastpath:
    joined_answer = fastpath.frames


def settings(values: dict[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HL", key, value) for key, value in values.items()))


def goaway(last_stream: int, code: Error, message: str = "") -> bytes:
    return frame(GOAWAY, 0, 0, struct.pack(">LL", last_stream, code) + message.encode())


def unpadded(flags: int, payload: memoryview) -> memoryview:
    """The payload of HEADERS without padding."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionFailed(Error.PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]
