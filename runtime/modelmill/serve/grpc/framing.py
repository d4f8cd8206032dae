"""gRPC's messages within a stream's bytes: each behind its length, and compressed where its flag says so."""

import zlib
from collections.abc import Iterator, Mapping

from modelmill.serve.errors import BadRequest
from modelmill.serve.grpc.status import TooLarge, Unimplemented
from modelmill.serve.http2.stream import Pieces

PREFIX_BYTES = 5
_WINDOW_BITS = {"gzip": 31, "deflate": 15}


def framed(message: Pieces) -> Pieces:
    return [b"\0" + sum(map(len, message)).to_bytes(4, "big"), *message]


def whole(piece: memoryview, *, max_bytes: int) -> bytearray | None:
    """The message, where a stream's first piece is all of one, and not compressed."""
    size = len(piece) - PREFIX_BYTES
    if size < 0 or piece[0] or size > max_bytes or int.from_bytes(piece[1:PREFIX_BYTES], "big") != size:
        return None
    return bytearray(piece[PREFIX_BYTES:])


class Messages:
    """Puts messages together from what arrives."""

    def __init__(self, headers: Mapping[str, str], *, max_bytes: int) -> None:
        self._encoding = headers.get("grpc-encoding", "identity")
        self._max_bytes = max_bytes
        self._prefix = b""
        self._size = 0
        self._message: bytearray | None = None
        self.received = 0
        """Bytes of a message that is not complete."""

    def feed(self, piece: memoryview) -> Iterator[bytearray]:
        """The messages that this piece completes; raises what is wrong with one."""
        while piece:
            if self._message is None:
                wanted = PREFIX_BYTES - len(self._prefix)
                self._prefix += piece[:wanted]
                self.received += min(wanted, len(piece))
                piece = piece[wanted:]
                if len(self._prefix) < PREFIX_BYTES:
                    return
                self._begin()
            assert self._message is not None
            taken = piece[: self._size - len(self._message)]
            # Grown with what arrives, not allocated from what was announced.
            self._message += taken
            self.received += len(taken)
            piece = piece[len(taken) :]
            if len(self._message) == self._size:
                yield self._finish()

    def _begin(self) -> None:
        self._size = int.from_bytes(self._prefix[1:], "big")
        if self._size > self._max_bytes:
            raise self._too_large()
        self._message = bytearray()

    def _finish(self) -> bytearray:
        assert self._message is not None
        message = self._decompressed(self._message) if self._prefix[0] else self._message
        self._message, self._prefix, self.received = None, b"", 0
        return message

    def _decompressed(self, message: bytearray) -> bytearray:
        bits = _WINDOW_BITS.get(self._encoding)
        if bits is None:
            raise Unimplemented(f"grpc-encoding {self._encoding[:40]!r} is not supported for compressed messages")
        expanding = zlib.decompressobj(bits)
        try:
            plain = bytearray(expanding.decompress(message, self._max_bytes + 1))
        except zlib.error as error:
            raise BadRequest(f"the message is not what grpc-encoding says, {self._encoding}: {error}") from error
        if len(plain) > self._max_bytes:
            raise self._too_large()
        return plain

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the message is larger than {self._max_bytes} bytes")
