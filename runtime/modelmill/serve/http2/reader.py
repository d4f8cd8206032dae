"""Bytes to frames. The payload of DATA is handed on as it arrives, whatever the frames' size; others come whole."""

from typing import Protocol

from modelmill.serve.http2 import frames
from modelmill.serve.http2.frames import ConnectionFailed, Error

MAX_FRAME = 1 << 20
MAX_OTHER_FRAME = 64 << 10
"""Of all but DATA."""


class Frames(Protocol):
    def frame(self, kind: int, flags: int, stream: int, payload: memoryview) -> None: ...

    def data_begins(self, stream: int, size: int, *, padding: int, last: bool) -> None:
        """`size` is that of the payload, with its `padding`."""

    def data(self, piece: memoryview) -> None: ...

    def data_ends(self) -> None: ...


class Reader:
    def __init__(self, handler: Frames) -> None:
        self._handler = handler
        self.preface = True
        """Still to come."""
        self._rest = b""
        self._in_data = False
        self._left = 0
        self._padding = 0

    @property
    def between(self) -> bool:
        """The next byte begins a frame."""
        return not (self._in_data or self._rest or self.preface)

    def feed(self, data: memoryview) -> None:
        if self._rest:
            data = memoryview(b"".join((self._rest, data)))
        position = self._expect_preface(data) if self.preface else 0
        while not self.preface:
            position += self._continue_data(data[position:]) if self._in_data else 0
            size = 0 if self._in_data else self._next(data, position)
            if not size:
                break
            position += size
        self._rest = bytes(data[position:])

    def _expect_preface(self, data: memoryview) -> int:
        wanted = frames.PREFACE
        if data[: len(wanted)] != wanted[: len(data)]:
            raise ConnectionFailed(Error.PROTOCOL_ERROR, "this is not HTTP/2")
        self.preface = len(data) < len(wanted)
        return 0 if self.preface else len(wanted)

    def _next(self, data: memoryview, position: int) -> int:
        """Takes a frame, of DATA only its head; returns its size, 0 when more is needed."""
        body = position + frames.HEAD_BYTES
        if body > len(data):
            return 0
        size, kind, flags, stream = frames.parse_head(data, position)
        if size > (MAX_FRAME if kind == frames.DATA else MAX_OTHER_FRAME):
            raise ConnectionFailed(Error.FRAME_SIZE_ERROR, f"a frame of {size} bytes")
        if kind == frames.DATA:
            return self._begin_data(flags, stream, size, data[body : body + 1])
        if body + size > len(data):
            return 0
        self._handler.frame(kind, flags, stream, data[body : body + size])
        return frames.HEAD_BYTES + size

    def _begin_data(self, flags: int, stream: int, size: int, first: memoryview) -> int:
        padded = 1 if flags & frames.PADDED else 0
        if padded and size and not first:
            return 0
        padding = first[0] if padded and size else 0
        if padded + padding > size:
            raise ConnectionFailed(Error.PROTOCOL_ERROR, "more padding than frame")
        self._handler.data_begins(stream, size, padding=padded + padding, last=bool(flags & frames.END_STREAM))
        self._in_data, self._left, self._padding = True, size - padded - padding, padding
        return frames.HEAD_BYTES + padded

    def _continue_data(self, data: memoryview) -> int:
        piece = data[: self._left]
        if piece:
            self._handler.data(piece)
        skipped = min(self._padding, len(data) - len(piece))
        self._left -= len(piece)
        self._padding -= skipped
        if not (self._left or self._padding):
            self._in_data = False
            self._handler.data_ends()
        return len(piece) + skipped
