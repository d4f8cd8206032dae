"""The receiving end of an HTTP/2 connection: the native one and the one in Python do the same, and pings are bounded."""

import socket
import time
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmill.serve import _fastpath
from modelmill.serve.http import Limits
from modelmill.serve.http2 import connection, frames
from modelmill.serve.http2.frames import Error
from modelmill.serve.http2.front import PlainFront
from tests.unit.serve.test_http2 import Client, listening
from tests.unit.serve.test_usual import FRAMES, window

PING = frames.frame(frames.PING, 0, 0, b"12345678")
KNOWN = {b"": {":path": "/empty"}, b"body": {":path": "/body"}, b"\0\0\0\0": None}


def usual_request(stream: int, block: bytes, body: bytes, opens: int, credits: int) -> bytes:
    head = frames.frame(frames.HEADERS, frames.END_HEADERS, stream, block) + (window(stream, opens) if opens else b"")
    return head + frames.frame(frames.DATA, frames.END_STREAM, stream, body) + (window(0, credits) if credits else b"")


NUMBERS = st.sampled_from([0, 1, 65_535, frames.LARGEST, frames.LARGEST + 1])
REQUESTS = st.builds(
    usual_request,
    st.sampled_from([1, 3, 5, frames.LARGEST]),
    st.sampled_from([*KNOWN, b"unknown"]),
    st.binary(max_size=300),
    NUMBERS,
    NUMBERS,
)
RECEIVED = st.lists(FRAMES | REQUESTS | st.just(PING) | st.binary(max_size=20), max_size=5).map(b"".join) | st.just(PING)


@dataclass
class Seen:
    """What a front did with what it received."""

    refused: int
    """A stream whose requests are not taken."""
    last: int
    """After a request of this stream nothing more is usual."""
    calls: list[Any] = field(default_factory=list)


def front(base: type, scratch: memoryview, seen: Seen) -> Any:
    class Front(base):
        def request(self, headers: Any, stream: int, window: int, credit: int, begin: int, size: int) -> bool:
            seen.calls.append(("request", headers, stream, window, credit, bytes(scratch[begin : begin + size])))
            if stream == seen.last:
                self.between = False
            return stream != seen.refused

        def received(self, begin: int, end: int) -> None:
            seen.calls.append(("received", bytes(scratch[begin:end])))

    made = Front()
    made.listen(scratch, KNOWN)
    made.answer_by(lambda data: seen.calls.append(("written", bytes(data))))
    return made


@given(
    many=st.lists(RECEIVED, max_size=4),
    between=st.booleans(),
    pings=st.integers(0, 2),
    refused=st.sampled_from([0, 3]),
    last=st.sampled_from([0, 5]),
)
def test_the_native_front_does_what_the_plain_one_does(
    many: list[bytes], between: bool, pings: int, refused: int, last: int
) -> None:
    scratch = memoryview(bytearray(4096))
    outcomes = []
    for base in (PlainFront, _fastpath.Front):
        seen = Seen(refused, last)
        made = front(base, scratch, seen)
        made.between, made.pings = between, pings
        for sent in many:
            made.get_buffer(-1)[: len(sent)] = sent
            made.buffer_updated(len(sent))
        outcomes.append((seen.calls, made.between, made.pings))
    assert outcomes[0] == outcomes[1]


def test_usual_requests_in_a_row_and_what_follows_them_are_each_handed_on_once() -> None:
    scratch, seen = memoryview(bytearray(4096)), Seen(0, 0)
    made = front(_fastpath.Front, scratch, seen)
    made.between = True
    sent = usual_request(1, b"body", b"one", 5, 7) + usual_request(3, b"", b"the second", 0, 0) + b"rest"
    scratch[: len(sent)] = sent
    made.buffer_updated(len(sent))
    assert seen.calls == [
        ("request", {":path": "/body"}, 1, 5, 7, b"one"),
        ("request", {":path": "/empty"}, 3, 0, 0, b"the second"),
        ("received", b"rest"),
    ]


def test_what_a_request_raises_reaches_the_caller() -> None:
    class Broken(_fastpath.Front):
        def request(self, *anything: object) -> bool:
            raise ArithmeticError("broken")

        def received(self, begin: int, end: int) -> None:
            raise AssertionError("nothing else was sent")

    made, scratch = Broken(), memoryview(bytearray(usual_request(1, b"body", b"the contents", 0, 0)))
    made.listen(scratch, KNOWN)
    made.between = True
    with pytest.raises(ArithmeticError, match="broken"):
        made.buffer_updated(len(scratch))
    with pytest.raises(ValueError, match="nbytes"):
        made.buffer_updated(len(scratch) + 1)


@given(
    stream=st.integers(1, frames.LARGEST),
    headers=st.none() | st.binary(max_size=300),
    data=st.lists(st.binary(max_size=70_000).flatmap(lambda piece: st.sampled_from([piece, memoryview(piece)])), max_size=3),
    last=st.booleans(),
    trailers=st.none() | st.binary(max_size=300),
)
def test_native_answers_are_the_same_frames(
    stream: int, headers: bytes | None, data: list[bytes | memoryview], last: bool, trailers: bytes | None
) -> None:
    told = stream, headers, data, sum(map(len, data)), last, trailers
    assert _fastpath.frames(*told) == b"".join(frames.answer(*told))


@pytest.mark.parametrize("size", [3, 5])
def test_an_answer_of_another_size_than_was_told_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="size"):
        _fastpath.frames(1, None, [b"four"], size, False, None)


def test_pings_that_come_alone_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_PINGS", 5)
    monkeypatch.setattr(connection, "MAX_CONTROL", 10)
    with listening(Limits(sweep_seconds=60)) as server, Client(server) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answered = 0
        while True:
            client.send(PING)
            kind, _, _, payload = next(found for found in iter(client.frame, None) if found[0] in (frames.PING, frames.GOAWAY))
            if kind == frames.GOAWAY:
                break
            answered += 1
    assert int.from_bytes(payload[4:8], "big") == Error.ENHANCE_YOUR_CALM
    # Its settings were counted with them.
    assert answered == 5 + 10 - 1


def test_a_client_that_only_pings_is_not_idle() -> None:
    with listening(Limits(idle_seconds=0.3, sweep_seconds=0.05)) as server, Client(server) as client:
        client.until(frames.WINDOW_UPDATE)
        for _ in range(10):
            client.send(PING)
            assert client.until(frames.PING)[1] == frames.ACK
            time.sleep(0.06)
        assert client.goaway() == (frames.LARGEST, Error.NO_ERROR)
