"""HTTP/2 as a server speaks it (RFC 9113): one `asyncio.BufferedProtocol` a connection.

Frames come in, and streams of them go to receivers. Whatever a client can make grow is bounded: headers, streams,
windows, resets. A client that does not read is not read either, so that it cannot pile up answers to its pings. When
the server leaves, no request is lost: the first GOAWAY refuses nothing, and only when the client has answered the ping
behind it does the second one name the last stream that is served.
"""

import asyncio
import struct
from typing import TYPE_CHECKING, cast

from modelmill.serve.http2 import frames
from modelmill.serve.http2.frames import ConnectionFailed, Error, StreamFailed
from modelmill.serve.http2.front import Front
from modelmill.serve.http2.headers import HeaderReader, Headers
from modelmill.serve.http2.outgoing import Outgoing
from modelmill.serve.http2.reader import MAX_FRAME, Reader
from modelmill.serve.http2.stream import WINDOW, Pieces, Stream
from modelmill.serve.port import PortConnection

if TYPE_CHECKING:
    from modelmill.serve.http2.port import Port

CONNECTION_WINDOW = 16 << 20
MAX_CONTROL = 1000
"""Pings, settings and streams given up or broken that a client may send between two sweeps."""
MAX_PINGS = 100
"""That are answered at once between two sweeps; the ones beyond them are counted too."""
SILENT_SECONDS = 60.0
"""A client that has streams and says nothing for so long is asked whether it still lives."""
ANSWER_SECONDS = 20.0
PARTING_SECONDS = 3.0
"""How long a client without streams is waited for when the server leaves: some do not read between two requests."""
LEAVING = b"leaving!"
LIVING = b"living?!"
SETTINGS = {
    frames.ENABLE_PUSH: 0,
    frames.INITIAL_WINDOW_SIZE: WINDOW,
    frames.MAX_FRAME_SIZE: MAX_FRAME,
}
_SIZES = {frames.PRIORITY: 5, frames.RST_STREAM: 4, frames.PING: 8, frames.WINDOW_UPDATE: 4}
_OF_STREAM = frozenset({frames.HEADERS, frames.PRIORITY, frames.RST_STREAM, frames.CONTINUATION})
_CONTROL = frozenset({frames.RST_STREAM, frames.SETTINGS, frames.PING})
_OF_CONNECTION = frozenset({frames.SETTINGS, frames.PING, frames.GOAWAY})


class Connection(Front, PortConnection):
    transport: asyncio.Transport

    def __init__(self, port: "Port") -> None:
        self._port = port
        self._loop = asyncio.get_running_loop()
        self.began = self._active = self._loop.time()
        self._reader = Reader(self)
        self._headers = HeaderReader(max_bytes=port.limits.max_head_bytes)
        self._greeted = False
        """The client's settings have come."""
        self._closing = False
        self._leaving: float | None = None
        """Since when the client is asked to go."""
        self._left = self._ending = False
        """It knows by now which streams are served; those do not wait for more."""
        self._asked: float | None = None
        """When a ping was sent that has not been answered."""
        self.streams: dict[int, Stream] = {}
        self._last = 0
        self._control = 0
        # A block of headers under way, and when it began.
        self._block: bytearray | None = None
        self._block_of = (0, False)
        self._block_since = 0.0
        # A DATA frame under way.
        self._target: Stream | None = None
        self._ends = False
        self._uncredited = 0
        self.outgoing = Outgoing()
        self.listen(port.scratch, self._headers.known)
        self.pings = MAX_PINGS

    # --- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not asserted: uvloop's transports do not inherit from asyncio's.
        self.transport = cast(asyncio.Transport, transport)
        self.answer_by(self.transport.write)
        self._port.connections.add(self)
        port = self._port
        most = {frames.MAX_HEADER_LIST_SIZE: port.limits.max_head_bytes, frames.MAX_CONCURRENT_STREAMS: port.max_streams}
        window = frames.number(frames.WINDOW_UPDATE, 0, CONNECTION_WINDOW - frames.DEFAULT_WINDOW)
        self.write([frames.settings({**SETTINGS, **most}), window])

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing, self.between = True, False
        self._port.connections.discard(self)
        for stream in tuple(self.streams.values()):
            self._drop(stream)

    def received(self, begin: int, end: int) -> None:
        if self._closing:
            return
        self._active = self._loop.time()
        try:
            self._reader.feed(self._port.scratch[begin:end])
        except ConnectionFailed as failure:
            self._close(failure.code, str(failure))
        self.between = self._greeted and self._block is None and self._reader.between and not self._closing

    def pause_writing(self) -> None:
        self.outgoing.pause(self._loop.time())
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()
        self.outgoing.resume()

    def write(self, pieces: Pieces) -> None:
        self.transport.writelines(pieces)

    def now(self) -> float:
        return self._loop.time()

    def request(self, headers: Headers, stream: int, window: int, credit: int, begin: int, size: int) -> bool:
        window += self.outgoing.initial_window
        full = len(self.streams) >= self._port.max_streams or window > frames.LARGEST
        if stream <= self._last or not stream % 2 or full or self._left or self._ending:
            return False
        self._active = self._loop.time()
        self._last = stream
        self._received(size)
        opened = self.streams[stream] = Stream(self, stream, send_window=window, ended=True)
        try:
            if credit:
                self.outgoing.open(credit, self._active)
            opened.receiver = receiver = self._port.open(opened, headers)
            if receiver:
                receiver.data(self._port.scratch[begin : begin + size])
            if receiver and not opened.answered:
                receiver.end()
        except StreamFailed as failure:
            self._fail(failure)
        except ConnectionFailed as failure:
            self._close(failure.code, str(failure))
        return True

    # --- the reader's side

    def frame(self, kind: int, flags: int, stream: int, payload: memoryview) -> None:
        if not self._greeted and (kind != frames.SETTINGS or flags & frames.ACK):
            raise ConnectionFailed(Error.PROTOCOL_ERROR, "the first frame must be SETTINGS")
        if (self._block is not None) != (kind == frames.CONTINUATION):
            raise ConnectionFailed(Error.PROTOCOL_ERROR, "headers go on in CONTINUATION, and nothing else does")
        if len(payload) != _SIZES.get(kind, len(payload)):
            raise ConnectionFailed(Error.FRAME_SIZE_ERROR, f"a frame of type {kind} with {len(payload)} bytes")
        if (kind in _OF_STREAM and not stream) or (kind in _OF_CONNECTION and stream):
            raise ConnectionFailed(Error.PROTOCOL_ERROR, f"a frame of type {kind} for stream {stream}")
        self._control += kind in _CONTROL
        if self._control > MAX_CONTROL:
            raise ConnectionFailed(Error.ENHANCE_YOUR_CALM, "too many pings, settings, or streams given up or broken")
        try:
            self._handle(kind, flags, stream, payload)
        except StreamFailed as failure:
            self._fail(failure)

    def _handle(self, kind: int, flags: int, stream: int, payload: memoryview) -> None:
        if kind == frames.HEADERS:
            self._begin_headers(flags, stream, payload)
        elif kind == frames.CONTINUATION:
            self._continue_headers(flags, stream, payload)
        elif kind == frames.WINDOW_UPDATE:
            self._open_window(stream, int.from_bytes(payload, "big") & frames.LARGEST)
        elif kind == frames.RST_STREAM:
            self._reset(stream)
        elif kind == frames.SETTINGS:
            self._settings(flags, payload)
        elif kind == frames.PING:
            self._ping(flags, bytes(payload))
        elif kind == frames.PUSH_PROMISE:
            raise ConnectionFailed(Error.PROTOCOL_ERROR, "clients push nothing")

    def data_begins(self, stream: int, size: int, *, padding: int, last: bool) -> None:
        if self._block is not None or not stream or not self._greeted:
            raise ConnectionFailed(Error.PROTOCOL_ERROR, "DATA where none may be")
        self._received(size)
        self._target, self._ends = self._known(stream), last
        try:
            if self._target is None:
                raise StreamFailed(stream, Error.STREAM_CLOSED)
            self._target.received(size)
            self._target.consumed(padding)
        except StreamFailed as failure:
            self._fail(failure)

    def _received(self, size: int) -> None:
        # The windows of the streams bound what a client may send; that of the connection never closes.
        self._uncredited += size
        if self._uncredited > CONNECTION_WINDOW // 2:
            self.write([frames.number(frames.WINDOW_UPDATE, 0, self._uncredited)])
            self._uncredited = 0

    def data(self, piece: memoryview) -> None:
        if self._target and self._target.receiver:
            self._target.receiver.data(piece)

    def data_ends(self) -> None:
        if self._target and self._ends:
            self._end(self._target)

    # --- streams

    def _known(self, number: int) -> Stream | None:
        """The stream; None when it has ended. One that never began is an error."""
        if number > self._last or not number % 2:
            raise ConnectionFailed(Error.PROTOCOL_ERROR, f"stream {number} was not opened")
        return self.streams.get(number)

    def _begin_headers(self, flags: int, stream: int, payload: memoryview) -> None:
        payload = frames.unpadded(flags, payload)
        self._block, self._block_of = bytearray(), (stream, bool(flags & frames.END_STREAM))
        self._block_since = self._active
        self._continue_headers(flags, stream, payload[5:] if flags & frames.PRIORITIZED else payload)

    def _continue_headers(self, flags: int, stream: int, payload: memoryview) -> None:
        assert self._block is not None
        if stream != self._block_of[0]:
            raise ConnectionFailed(Error.PROTOCOL_ERROR, "headers go on in another stream")
        self._block += payload
        if len(self._block) > self._port.limits.max_head_bytes:
            raise ConnectionFailed(Error.ENHANCE_YOUR_CALM, "the headers are too large")
        if flags & frames.END_HEADERS:
            block, self._block = bytes(self._block), None
            self._open(stream, self._headers.read(block), last=self._block_of[1])

    def _open(self, number: int, headers: Headers | None, *, last: bool) -> None:
        if number <= self._last:
            self._trailers(number, last=last)
            return
        if not number % 2:
            raise ConnectionFailed(Error.PROTOCOL_ERROR, f"clients do not open stream {number}")
        self._last = number
        if headers is None:
            raise StreamFailed(number, Error.PROTOCOL_ERROR)
        if len(self.streams) >= self._port.max_streams or self._left:
            raise StreamFailed(number, Error.REFUSED_STREAM)
        stream = self.streams[number] = Stream(self, number, send_window=self.outgoing.initial_window, ended=last)
        stream.receiver = self._port.open(stream, headers)
        if stream.receiver and last:
            stream.receiver.end()
        if stream.receiver and self._ending and number in self.streams:
            stream.receiver.leave()

    def _trailers(self, number: int, *, last: bool) -> None:
        stream = self._known(number)
        if stream is None or stream.ended:
            raise StreamFailed(number, Error.STREAM_CLOSED)
        if not last:
            raise StreamFailed(number, Error.PROTOCOL_ERROR)
        self._end(stream)

    def _end(self, stream: Stream) -> None:
        stream.ended = True
        if stream.answered:
            self.forget(stream)
        elif stream.receiver:
            stream.receiver.end()

    def _open_window(self, number: int, size: int) -> None:
        stream = self._known(number) if number else None
        if stream or not number:
            self.outgoing.open(size, self._active, stream)

    def _reset(self, number: int) -> None:
        if stream := self._known(number):
            self._drop(stream)

    def _fail(self, failure: StreamFailed) -> None:
        self.write([frames.number(frames.RST_STREAM, failure.stream, failure.code)])
        if stream := self.streams.get(failure.stream):
            # As if the client had given it up: whatever makes us reset may not start work without end either.
            self._control += 1
            self._drop(stream)

    def _drop(self, stream: Stream) -> None:
        self.forget(stream)
        if stream.receiver:
            stream.receiver.gone()

    def forget(self, stream: Stream) -> None:
        """The stream has ended, on this side at least."""
        self.streams.pop(stream.number, None)
        self.outgoing.waiting.pop(stream, None)
        if self._target is stream:
            self._target = None
        if self._left:
            self._close_when_done()

    # --- settings and pings

    def _settings(self, flags: int, payload: memoryview) -> None:
        if len(payload) % 6 or (flags & frames.ACK and payload):
            raise ConnectionFailed(Error.FRAME_SIZE_ERROR, f"settings of {len(payload)} bytes")
        self._greeted = True
        if flags & frames.ACK:
            return
        # As a dictionary: thousands of values for one setting cost as much as the last one.
        for key, value in dict(struct.iter_unpack(">HL", payload)).items():
            self.outgoing.set(key, value, self.streams.values())
        self.write([frames.head(frames.SETTINGS, frames.ACK, 0, 0)])
        self.outgoing.flush_all()

    def _ping(self, flags: int, payload: bytes) -> None:
        if not flags & frames.ACK:
            self.write([frames.frame(frames.PING, frames.ACK, 0, payload)])
            return
        self._asked = None
        if payload == LEAVING and self._leaving is not None:
            self._left = True
            self.write([frames.goaway(self._last, Error.NO_ERROR)])
            self._close_when_done()

    # --- the port's side

    @property
    def busy(self) -> bool:
        """Streams are open, or the client may still open some, or what was written is not yet in the kernel."""
        if self._closing:
            return False
        awaited = self._leaving is not None and not self._left and self._loop.time() - self._leaving < PARTING_SECONDS
        return bool(self.streams) or awaited or self.transport.get_write_buffer_size() > 0

    def leave(self) -> None:
        """Asks the client to go elsewhere with new streams; the connection closes after the last one it has."""
        if self._leaving is None and not self._closing:
            self._leaving = self._asked = self._loop.time()
            goaway = frames.goaway(frames.LARGEST, Error.NO_ERROR)
            self.write([goaway, frames.frame(frames.PING, 0, 0, LEAVING)])

    def end(self) -> None:
        """The same, and streams that wait for their client end too."""
        self._ending = True
        self.leave()
        for stream in tuple(self.streams.values()):
            if stream.receiver:
                stream.receiver.leave()

    def sweep(self, now: float) -> None:
        limits = self._port.limits
        if self.pings < MAX_PINGS:
            self._active, self.pings = now, MAX_PINGS
        self._control = 0
        for stream in tuple(self.streams.values()):
            if stream.receiver and stream.receiver.overdue():
                self._fail(StreamFailed(stream.number, Error.CANCEL))
        unread = self.outgoing.stuck_seconds(now) > limits.unread_seconds
        unanswered = self._asked is not None and now - self._asked > ANSWER_SECONDS
        began = self._block_since if self._block is not None else self.began
        unfinished = (self._block is not None or not self._greeted) and now - began > limits.grace_seconds
        if unread or unanswered or unfinished:
            self.transport.abort()
        elif not self.streams and now - self._active > limits.idle_seconds:
            self.leave()
        elif self._asked is None and now - self._active > SILENT_SECONDS:
            self._asked = now
            self.write([frames.frame(frames.PING, 0, 0, LIVING)])

    def _close_when_done(self) -> None:
        if self._left and not self.streams and not self._closing:
            self._closing, self.between = True, False
            self.transport.close()

    def _close(self, code: Error, message: str) -> None:
        self.write([frames.goaway(self._last, code, message)])
        self._closing, self.between = True, False
        self.transport.close()
