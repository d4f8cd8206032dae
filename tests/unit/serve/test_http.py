"""HTTP/1.1 on a real socket: order, limits, slow and broken clients. Not here: what the paths mean."""

import asyncio
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from modelmill.serve.http import Handler, Limits, Request, Response, json_response
from modelmill.serve.listener import Listener
from tests.unit.serve.support import post, raw, running

LIMITS = Limits(
    max_body_bytes=1000,
    max_head_bytes=2000,
    grace_seconds=0.5,
    least_bytes_per_second=1 << 30,
    idle_seconds=0.5,
    unread_seconds=0.3,
    sweep_seconds=0.05,
)
Address = tuple[str, int]


class Slow:
    """An answer that takes 0.2 s."""

    def __init__(self, response: Response) -> None:
        self._response = response

    def then(self, send: Callable[[Response], None]) -> None:
        self._timer = asyncio.get_running_loop().call_later(0.2, send, self._response)

    def cancel(self) -> None:
        self._timer.cancel()


def echo(request: Request) -> Response | Slow:
    response = json_response({"path": request.path, "bytes": len(request.body)})
    return Slow(response) if request.path == "/slow" else response


@contextmanager
def listening(limits: Limits = LIMITS, *, handler: Handler = echo) -> Iterator[tuple[Address, Listener, list[int]]]:
    unanswered: list[int] = []
    loop = uvloop.new_event_loop()
    unexpected: list[object] = []
    loop.set_exception_handler(lambda _, context: unexpected.append(context))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    listener = Listener(handler, limits=limits, unanswered=unanswered.append)
    port = asyncio.run_coroutine_threadsafe(listener.start(("127.0.0.1",), port=0), loop).result(10)
    try:
        yield ("127.0.0.1", port), listener, unanswered
    finally:
        asyncio.run_coroutine_threadsafe(listener.close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
    assert not unexpected, unexpected


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with listening() as (where, _, _):
        yield where


def eventually(holds: Callable[[], bool], *, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds()


def test_pipelined_requests_are_answered_in_their_order(address: Address) -> None:
    paths = ["/slow", "/a", "/b", *(f"/{i}" for i in range(20))]
    last = post("/end", b"", "Connection: close")
    answer = raw(address, b"".join(post(path, b"xy") for path in paths) + last).decode()
    positions = [answer.index(f'"path":"{path}"') for path in [*paths, "/end"]]
    assert positions == sorted(positions)


def test_a_request_that_arrives_byte_by_byte_is_understood(address: Address) -> None:
    with socket.create_connection(address) as connection:
        for byte in post("/a", b"12345", "Connection: close"):
            connection.send(bytes([byte]))
        assert b'"bytes":5' in connection.recv(65536)


def test_a_chunked_body_is_understood(address: Address) -> None:
    data = (
        b"POST /a HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )
    assert b'"bytes":5' in raw(address, data)


CHUNKS = b"".join(b"200\r\n" + b"x" * 0x200 + b"\r\n" for _ in range(4))
REFUSED = {
    "a body announced too large": (post("/a", b"x" * 1001), 413, b"larger than 1000 bytes"),
    "a chunked body that grows too large": (
        b"POST /a HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS,
        413,
        b"1000",
    ),
    "a head that is too large": (b"GET /a HTTP/1.1\r\nX: " + b"y" * 3000 + b"\r\n\r\n", 431, b"2000 bytes"),
    "a head that never ends": (b"GET /a HTTP/1.1\r\nX: " + b"y" * 3000, 431, b"2000 bytes"),
    "no HTTP": (b"\x16\x03\x01hello\r\n\r\n", 400, b"not an HTTP/1.1 request"),
    "two lengths": (b"POST /a HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400, b"not an HTTP"),
}


@pytest.mark.parametrize(("data", "status", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_accepted_is_refused_with_a_sentence(address: Address, data: bytes, status: int, words: bytes) -> None:
    answer = raw(address, data)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert words in answer
    assert b"Connection: close" in answer


def test_the_refusal_of_a_large_upload_reaches_its_sender(address: Address) -> None:
    """Closing at once would reset the connection while the sender still sends."""
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(post("/a", b"x" * 2_000_000))
        assert connection.recv(65536).startswith(b"HTTP/1.1 413")


def test_a_refusal_comes_after_the_answers_to_earlier_requests(address: Address) -> None:
    answer = raw(address, post("/slow", b"") + post("/b", b"x" * 1001))
    assert answer.index(b"200 OK") < answer.index(b"413 ")


def test_a_client_that_expects_100_continue_gets_it(address: Address) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(b"POST /a HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"ab")
        assert b'"bytes":2' in connection.recv(1000)


def test_an_offer_of_another_protocol_is_ignored(address: Address) -> None:
    offer = post("/a", b"abc", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP")
    answer = raw(address, offer + post("/b", b"", "Connection: close"))
    assert answer.count(b"200 OK") == 2


def test_a_slow_client_is_told_and_closed(address: Address) -> None:
    assert raw(address, b"POST /a HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc").startswith(b"HTTP/1.1 408")


def test_an_idle_connection_is_closed(address: Address) -> None:
    assert raw(address, b"") == b""


def test_http_1_0_closes_after_its_answer(address: Address) -> None:
    assert b"Connection: close" in raw(address, b"GET /a HTTP/1.0\r\n\r\n")


def test_a_client_that_goes_away_cancels_its_request_and_is_counted() -> None:
    with listening() as (address, listener, unanswered):
        with socket.create_connection(address) as connection:
            connection.sendall(post("/slow", b"") + post("/a", b""))
            assert eventually(lambda: listener.busy == 1)
        assert eventually(lambda: unanswered == [499, 499])
        assert listener.busy == 0


def test_a_client_that_never_reads_costs_one_connection_for_a_while() -> None:
    with listening() as (address, listener, _):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(address)
        connection.settimeout(0.5)
        with connection, pytest.raises(OSError):
            while True:
                connection.sendall(post("/a", b"") * 100)
        assert eventually(lambda: not listener.connections)


def test_while_draining_every_answer_asks_to_connect_elsewhere() -> None:
    with listening() as (address, listener, _):
        listener.draining = True
        assert b"Connection: close" in raw(address, post("/a", b""))


LARGE = Limits(max_body_bytes=4 << 20)


@given(
    sizes=st.lists(st.integers(0, 300_000), min_size=1, max_size=4),
    cuts=st.lists(st.integers(1, 150_000), min_size=1, max_size=6),
    blank=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_bodies_of_every_size_arrive_whole_however_the_network_cuts_them(sizes: list[int], cuts: list[int], blank: bool) -> None:
    bodies = [random.Random(size).randbytes(size) for size in sizes]
    # A blank line between two messages is allowed, and must not count as the next one's body.
    stream = (b"\r\n" if blank else b"").join(post(f"/{i}", body) for i, body in enumerate(bodies))
    received: list[tuple[str, bytes]] = []

    def keep(request: Request) -> Response:
        received.append((request.path, bytes(request.body)))
        return json_response({})

    with listening(LARGE, handler=keep) as (address, _, _), socket.create_connection(address, timeout=10) as connection:
        for cut in cuts * 20:
            connection.sendall(stream[:cut])
            stream = stream[cut:]
        connection.sendall(stream)
        assert eventually(lambda: len(received) == len(bodies))
    assert received == [(f"/{i}", body) for i, body in enumerate(bodies)]


def test_what_follows_the_json_header_of_a_large_body_is_aligned() -> None:
    addresses: list[int] = []

    def look(request: Request) -> Response:
        addresses.append(np.frombuffer(request.body, np.uint8)[37:].ctypes.data)
        return json_response({})

    with listening(LARGE, handler=look) as (address, _, _):
        for _ in range(3):
            raw(address, post("/", bytes(200_000), "Inference-Header-Content-Length: 37", "Connection: close"))
    assert [address % 64 for address in addresses] == [0, 0, 0]


def test_head_is_answered_as_get_without_the_body() -> None:
    with running() as server:
        got, had = (
            raw(server.address, f"{method} /v2 HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
            for method in ("GET", "HEAD")
        )
    head, _, body = got.partition(b"\r\n\r\n")
    assert body
    assert had == head + b"\r\n\r\n"
