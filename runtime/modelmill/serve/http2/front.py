"""The receiving end of a connection: where bytes come in, and what of them is answered or taken at once.

That is pings, which clients of gRPC send to measure the bandwidth, each waking the loop for itself, and the usual requests
(`modelmill.serve.http2.usual`). A model pushes everything else out of the caches, and native code touches less of it than
Python (docs/design/0006); without a compiler the same happens in Python.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from modelmill.serve.http2 import frames
from modelmill.serve.http2.headers import Headers
from modelmill.serve.http2.usual import LEAST_BYTES, usual
from modelmill.serve.native import fastpath

PING_HEAD = frames.head(frames.PING, 0, 0, 8)
PONG_HEAD = frames.head(frames.PING, frames.ACK, 0, 8)
PING_BYTES = len(PING_HEAD) + 8


class PlainFront:
    """What the native one does, in Python."""

    between = False
    """Between two frames, of a client that has greeted: what is usual may be taken at once."""
    pings = 0
    """How many are answered at once before `received` gets them."""

    def listen(self, scratch: memoryview, known: Mapping[bytes, Headers | None]) -> None:
        """`scratch`: where bytes are received. `known`: what blocks of headers mean."""
        self._scratch, self._blocks = scratch, known

    def answer_by(self, write: Callable[[bytes], None]) -> None:
        self._write = write

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        data = self._scratch[:nbytes]
        if self.between and self.pings > 0 and nbytes == PING_BYTES and data[: len(PING_HEAD)] == PING_HEAD:
            self.pings -= 1
            self._write(PONG_HEAD + data[len(PING_HEAD) :])
            return
        at = 0
        while self.between and (taken := self._take(data, at)):
            at += taken
        if at < nbytes:
            self.received(at, nbytes)

    def _take(self, data: memoryview, at: int) -> int:
        found = usual(data[at:]) if len(data) - at >= LEAST_BYTES else None
        headers = self._blocks.get(found.block) if found else None
        if found is None or headers is None:
            return 0
        taken = self.request(headers, found.stream, found.window, found.credit, at + found.begin, found.size)
        return found.end if taken else 0

    @abstractmethod
    def request(self, headers: Headers, stream: int, window: int, credit: int, begin: int, size: int) -> bool:
        """A whole request whose body lies in `scratch`; False: it is not taken, and nothing has happened."""

    @abstractmethod
    def received(self, begin: int, end: int) -> None:
        """Anything else, which lies in `scratch`."""


Front = PlainFront
if fastpath and not TYPE_CHECKING:
    Front = fastpath.Front
