"""HTTP/2 on the HTTP port, frame by frame: what becomes a request, limits, slow and broken clients. Not here: what it means."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelmill.serve.http import Handler, Limits, Request, Response, json_response
from modelmill.serve.http2 import frames, hpack
from modelmill.serve.http2.frames import Error
from modelmill.serve.http2.port import MAX_SHARED_STREAMS
from modelmill.serve.listener import Listener
from tests.unit.serve import test_http as http1
from tests.unit.serve.test_http import LARGE, LIMITS, Address, Slow, eventually
from tests.unit.serve.test_http2 import FRAMES, Client, data

OPEN = frames.END_HEADERS
WHOLE = frames.END_HEADERS | frames.END_STREAM
PING = frames.frame(frames.PING, 0, 0, b"12345678")


def head(stream: int, path: str = "/a", *, method: str = "POST", flags: int = OPEN, **more: Any) -> bytes:
    """The headers of a request; names in `more` have _ for -."""
    fields = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "test")]
    fields += [(name.replace("_", "-"), str(value)) for name, value in more.items()]
    return frames.frame(frames.HEADERS, flags, stream, hpack.encode(fields))


@dataclass
class Open:
    """A port, and what a client of HTTP/2 sees of it."""

    port: int
    listener: Listener
    unanswered: list[int]

    @property
    def address(self) -> Address:
        return "127.0.0.1", self.port


@contextmanager
def listening(limits: Limits = LIMITS, *, handler: Handler = http1.echo) -> Iterator[Open]:
    with http1.listening(limits, handler=handler) as (address, listener, unanswered):
        yield Open(address[1], listener, unanswered)


@pytest.fixture(scope="module")
def server() -> Iterator[Open]:
    with listening(replace(LIMITS, idle_seconds=60.0)) as found:
        yield found


def answer(client: Client, stream: int) -> tuple[dict[str, str], bytes]:
    """Header fields and body of a stream's answer, which has ended in order."""
    fields: dict[str, str] = {}
    body = b""
    decoder = hpack.Decoder(max_bytes=1 << 20)
    while frame := client.frame():
        kind, flags, number, payload = frame
        if number != stream:
            continue
        assert kind in (frames.HEADERS, frames.DATA), frame
        if kind == frames.HEADERS:
            fields = dict(decoder.decode(payload))
        body += payload if kind == frames.DATA else b""
        if flags & frames.END_STREAM:
            return fields, body
    raise AssertionError("the server has closed")


def test_paths_are_decoded_and_lose_their_query_as_in_http_1(server: Open) -> None:
    with Client(server) as client:
        client.send(head(1, "/a%20b?c=%20d", flags=WHOLE))
        assert answer(client, 1)[1] == b'{"path":"/a b","bytes":0}'


def test_head_is_answered_as_get_without_the_body(server: Open) -> None:
    with Client(server) as client:
        client.send(head(1, method="GET", flags=WHOLE), head(3, method="HEAD", flags=WHOLE))
        fields, body = answer(client, 1)
        assert body
        assert answer(client, 3) == (fields, b"")


def test_a_client_that_expects_100_continue_gets_it(server: Open) -> None:
    with Client(server) as client:
        client.send(head(1, expect="100-continue", content_length=2))
        _, flags, _, block = client.until(frames.HEADERS)
        assert (hpack.Decoder(max_bytes=100).decode(block), flags & frames.END_STREAM) == ([(":status", "100")], 0)
        client.send(data(1, b"ab"))
        assert answer(client, 1)[0][":status"] == "200"


def test_an_answer_that_takes_time_does_not_hold_up_others(server: Open) -> None:
    with Client(server) as client:
        client.send(head(1, "/slow", flags=WHOLE), head(3, flags=WHOLE))
        assert client.until(frames.HEADERS)[2] == 3
        assert answer(client, 1)[0][":status"] == "200"


# --- limits

REFUSED: dict[str, tuple[bytes, str, bytes]] = {
    "a body announced too large": (head(1, content_length=1001), "413", b"larger than 1000 bytes"),
    "a body announced beyond all numbers": (head(1, content_length="9" * 18), "413", b"larger than 1000 bytes"),
    "a body that grows too large": (head(1) + data(1, bytes(600), flags=0) * 2, "413", b"larger than 1000 bytes"),
    "a client that is too slow": (head(1, content_length=10) + data(1, b"abc", flags=0), "408", b"did not arrive within"),
}


@pytest.mark.parametrize(("sent", "status", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_accepted_is_refused_in_words_and_the_connection_lives(sent: bytes, status: str, words: bytes) -> None:
    with listening() as server, Client(server) as client:
        client.send(sent)
        fields, body = answer(client, 1)
        assert (fields[":status"], words in body) == (status, True)
        assert server.unanswered == [int(status)]
        client.send(head(3, flags=WHOLE))
        assert answer(client, 3)[0][":status"] == "200"


MALFORMED: dict[str, bytes] = {
    "more than was announced": head(1, content_length=3) + data(1, b"abcd"),
    "less than was announced": head(1, content_length=3) + data(1, b"ab"),
    "nothing of what was announced": head(1, content_length=3, flags=WHOLE),
    "a length that is no number": head(1, content_length="-1"),
    "two lengths": head(1, content_length="3, 3") + data(1, b"abc"),
    "a length of 1500 digits": head(1, content_length="1" * 1500),
}


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED)
def test_a_body_that_is_not_what_was_announced_ends_its_stream_unseen(sent: bytes) -> None:
    seen: list[Request] = []

    def handle(request: Request) -> Response:
        seen.append(request)
        return json_response({})

    with listening(handler=handle) as server, Client(server) as client:
        client.send(sent)
        assert client.until(frames.RST_STREAM)[2:] == (1, Error.PROTOCOL_ERROR.to_bytes(4, "big"))
        client.send(head(3, flags=WHOLE))
        assert answer(client, 3)[0][":status"] == "200"
        assert (len(seen), server.unanswered) == (1, [400])


def test_a_refused_upload_is_received_for_a_while_and_then_told_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelmill.serve.rest_stream.LINGER_SECONDS", 0.3)
    with listening() as server, Client(server) as client:
        for stream in (1, 3):
            client.send(head(stream, content_length=9 << 20))
            assert answer(client, stream)[0][":status"] == "413"
        # Some clients send everything before they read an answer: their window opens.
        for _ in range(3):
            client.send(*[data(1, bytes(1 << 20), flags=0)] * 3)
            assert client.until(frames.WINDOW_UPDATE, stream=1)
        client.send(data(1, b""))
        # Others go on and on.
        assert client.until(frames.RST_STREAM)[2:] == (3, Error.NO_ERROR.to_bytes(4, "big"))
        client.send(head(5, flags=WHOLE))
        assert answer(client, 5)[0][":status"] == "200"
        assert server.listener.busy == 0


@settings(max_examples=20, deadline=None)
@given(window=st.integers(1, 30_000), sizes=st.lists(st.integers(0, 60_000), max_size=4), step=st.integers(1000, 30_000))
def test_an_answer_waits_for_the_clients_windows(window: int, sizes: list[int], step: int) -> None:
    parts = [bytes(i % 251 for i in range(size)) for size in sizes]
    content = b"".join(parts)
    with (
        listening(LARGE, handler=lambda request: Response(body=parts)) as server,
        Client(server, greet=frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: window})) as client,
    ):
        client.send(head(1, flags=WHOLE))
        client.until(frames.HEADERS)
        received, allowed, ended = b"", window, not content
        while not ended:
            _, flags, _, payload = client.until(frames.DATA, stream=1)
            received, ended = received + payload, bool(flags & frames.END_STREAM)
            assert len(received) <= allowed
            if len(received) == allowed and not ended:
                allowed += step
                client.send(frames.number(frames.WINDOW_UPDATE, 1, step), frames.number(frames.WINDOW_UPDATE, 0, step))
        assert received == content


def test_tensors_go_out_as_bytes_whatever_their_shape() -> None:
    tensor = np.arange(60_000, dtype=np.float32).reshape(200, 300)
    greet = frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 20})
    with (
        listening(handler=lambda request: Response(body=[b"", tensor.data, b""])) as server,
        Client(server, greet=greet) as client,
    ):
        client.send(frames.number(frames.WINDOW_UPDATE, 0, 1 << 20), head(1, flags=WHOLE))
        assert answer(client, 1)[1] == tensor.tobytes()


def test_what_follows_the_json_header_of_a_large_body_is_aligned() -> None:
    addresses: list[int] = []

    def look(request: Request) -> Response:
        content = np.frombuffer(request.body, np.uint8)
        assert content.tobytes() == bytes(i % 251 for i in range(200_000))
        addresses.append(content[37:].ctypes.data)
        return json_response({})

    content = bytes(i % 251 for i in range(200_000))
    with listening(LARGE, handler=look) as server, Client(server) as client:
        for stream in (1, 3, 5):
            client.send(head(stream, content_length=len(content), inference_header_content_length=37))
            client.send(*(data(stream, content[i : i + 7000], flags=0) for i in range(0, len(content), 7000)), data(stream, b""))
            assert answer(client, stream)[0][":status"] == "200"
    assert [address % 64 for address in addresses] == [0, 0, 0]


BLOCKS = st.sampled_from(
    [
        hpack.encode([(":method", method), (":scheme", "http"), (":path", path), *more])
        for method in ("GET", "HEAD", "POST")
        for path in ("/a", "/slow")
        for more in ([], [("content-length", "3")], [("content-length", "2000")], [("expect", "100-continue")])
    ]
)
HEADERS = st.builds(frames.frame, st.just(frames.HEADERS), st.sampled_from([OPEN, WHOLE]), st.sampled_from([1, 3, 5, 7]), BLOCKS)


@settings(max_examples=200, deadline=None)
@given(sent=st.lists(st.one_of(HEADERS, HEADERS, FRAMES), max_size=20), cut=st.integers(0, 20), last=st.binary(max_size=20))
def test_whatever_a_client_sends_the_server_goes_on(server: Open, sent: list[bytes], cut: int, last: bytes) -> None:
    bytes_sent = b"".join(sent)
    with Client(server) as client:
        client.send(bytes_sent[: len(bytes_sent) - cut], last, PING)
        client.socket.shutdown(socket.SHUT_WR)
        while client.frame():
            pass
    with Client(server) as another:
        another.send(head(1) + data(1, b"x"))
        assert answer(another, 1)[1] == b'{"path":"/a","bytes":1}'


def test_more_streams_than_may_be_open_are_refused_unseen() -> None:
    with listening(LARGE) as server, Client(server) as client:
        client.send(*(head(stream) for stream in range(1, 2 * MAX_SHARED_STREAMS + 1, 2)), head(2 * MAX_SHARED_STREAMS + 1))
        number, code = 2 * MAX_SHARED_STREAMS + 1, Error.REFUSED_STREAM.to_bytes(4, "big")
        assert client.until(frames.RST_STREAM)[2:] == (number, code)
        assert (server.listener.busy, server.unanswered) == (1, [])


# --- clients that leave


def given_up(stream: int) -> bytes:
    return frames.number(frames.RST_STREAM, stream, Error.CANCEL)


def never(cancelled: list[float]) -> Callable[[Request], Slow]:
    class Never(Slow):
        def cancel(self) -> None:
            cancelled.append(asyncio.get_running_loop().time())

        def then(self, send: Callable[[Response], None]) -> None:
            pass

    return lambda request: Never(json_response({}))


def test_a_request_whose_stream_is_given_up_is_cancelled_and_counted() -> None:
    cancelled: list[float] = []
    with listening(handler=never(cancelled)) as server, Client(server) as client:
        client.send(head(1, flags=WHOLE), head(3), head(5, flags=WHOLE))
        assert eventually(lambda: server.listener.busy == 1)
        client.send(given_up(1), given_up(3))
        assert eventually(lambda: server.unanswered == [499, 499])
        assert len(cancelled) == 1
        client.socket.close()
        assert eventually(lambda: server.unanswered == [499, 499, 499])
        assert len(cancelled) == 2
        assert server.listener.busy == 0


ENDS: dict[str, Callable[[int], bytes]] = {
    "RST_STREAM": given_up,
    "a window of 0": lambda stream: frames.number(frames.WINDOW_UPDATE, stream, 0),
    "DATA after the end": lambda stream: data(stream, b"x"),
}


@pytest.mark.parametrize("broken", ENDS.values(), ids=ENDS)
def test_streams_that_end_at_once_by_the_thousand_end_their_connection(broken: Callable[[int], bytes]) -> None:
    """CVE-2023-44487, and CVE-2025-8671, where it is the server that resets."""
    cancelled: list[float] = []
    limits = replace(LARGE, sweep_seconds=60.0)
    with listening(limits, handler=never(cancelled)) as server, Client(server) as client:
        client.send(*(head(stream, flags=WHOLE) + broken(stream) for stream in range(1, 2100, 2)), PING)
        assert client.goaway()[1] is Error.ENHANCE_YOUR_CALM
        assert eventually(lambda: not server.listener.http2.connections)
        assert len(cancelled) <= 1001


def test_a_client_that_never_reads_costs_one_connection_for_a_while() -> None:
    with listening(handler=lambda request: Response(body=[bytes(1 << 20)])) as server, Client(server) as client:
        for stream in range(1, 41, 2):
            client.send(head(stream, flags=WHOLE))
        assert eventually(lambda: not server.listener.http2.connections)


# --- leaving


def test_leaving_serves_what_the_client_sent_before_it_knew() -> None:
    def leave(request: Request) -> Response | Slow:
        if request.path == "/leave":
            here.listener.stop_accepting()
        return http1.echo(request)

    with listening(LARGE, handler=leave) as here, Client(here) as client:
        client.send(head(1, "/slow", flags=WHOLE), head(3, "/leave", flags=WHOLE))
        assert client.goaway() == (frames.LARGEST, Error.NO_ERROR)
        leaving = client.until(frames.PING)[3]
        client.send(head(5, flags=WHOLE))
        assert answer(client, 5)[0][":status"] == "200"
        assert here.listener.busy == 1
        client.send(frames.frame(frames.PING, frames.ACK, 0, leaving))
        assert client.goaway() == (5, Error.NO_ERROR)
        assert answer(client, 1)[0][":status"] == "200"
        assert client.frame() is None
        assert here.listener.busy == 0


def test_an_idle_client_that_does_not_read_holds_up_no_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelmill.serve.http2.connection.PARTING_SECONDS", 0.2)

    def leave(request: Request) -> Response:
        here.listener.stop_accepting()
        return json_response({})

    with listening(LARGE, handler=leave) as here, Client(here) as client:
        client.send(head(1, flags=WHOLE))
        assert answer(client, 1)[0][":status"] == "200"
        assert eventually(lambda: here.listener.busy == 1)
        assert eventually(lambda: here.listener.busy == 0, seconds=2)
