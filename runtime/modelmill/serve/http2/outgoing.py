"""The client's side of flow control: how much may be written now, and which streams wait to write more."""

from collections.abc import Iterable

from modelmill.serve.http2 import frames
from modelmill.serve.http2.frames import ConnectionFailed, Error
from modelmill.serve.http2.stream import Stream


class Outgoing:
    def __init__(self) -> None:
        self.window = self.initial_window = frames.DEFAULT_WINDOW
        self.largest_frame = frames.DEFAULT_FRAME
        self.waiting: dict[Stream, None] = {}
        """Streams with more to write than the windows allow."""
        self._paused = False
        """The transport has enough: the client does not read."""
        self._since = 0.0
        """When something began to wait, or the client last took something."""

    @property
    def room(self) -> int:
        """Bytes of DATA that may be written now."""
        return 0 if self._paused else self.window

    def stuck_seconds(self, now: float) -> float:
        """How long the client has not taken what waits for it."""
        return now - self._since if self._paused or self.waiting else 0.0

    def pause(self, now: float) -> None:
        self._paused, self._since = True, now

    def resume(self) -> None:
        self._paused = False
        self.flush_all()

    def wait(self, stream: Stream, now: float) -> None:
        if not self.waiting:
            self._since = now
        self.waiting[stream] = None
        self.flush(stream)

    def flush(self, stream: Stream) -> None:
        if stream in self.waiting and stream.flush() and stream in self.waiting:
            del self.waiting[stream]
            if stream.receiver:
                stream.receiver.drained()

    def flush_all(self) -> None:
        for stream in tuple(self.waiting):
            if self.room > 0:
                self.flush(stream)

    def open(self, size: int, now: float, stream: Stream | None = None) -> None:
        """The client takes so many bytes more, of one stream or of all together."""
        self._since = now
        if stream:
            stream.open_window(size)
            self.flush(stream)
            return
        self.window += size
        if not size or self.window > frames.LARGEST:
            raise ConnectionFailed(Error.FLOW_CONTROL_ERROR if size else Error.PROTOCOL_ERROR, f"a window of {size}")
        if self.waiting:
            self.flush_all()

    def set(self, key: int, value: int, streams: Iterable[Stream]) -> None:
        """One of the client's settings; those that concern nothing we do are ignored."""
        if key == frames.INITIAL_WINDOW_SIZE:
            change, self.initial_window = value - self.initial_window, value
            for stream in streams:
                stream.send_window += change
                if stream.send_window > frames.LARGEST:
                    raise ConnectionFailed(Error.FLOW_CONTROL_ERROR, f"a window of {stream.send_window}")
            if value > frames.LARGEST:
                raise ConnectionFailed(Error.FLOW_CONTROL_ERROR, f"an initial window of {value}")
        elif key == frames.MAX_FRAME_SIZE:
            if not frames.DEFAULT_FRAME <= value < 1 << 24:
                raise ConnectionFailed(Error.PROTOCOL_ERROR, f"frames of {value} bytes")
            self.largest_frame = value
        elif key == frames.ENABLE_PUSH and value > 1:
            raise ConnectionFailed(Error.PROTOCOL_ERROR, f"ENABLE_PUSH {value}")
