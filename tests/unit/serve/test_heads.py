"""A head that was seen before is looked up instead of parsed; no client can tell."""

import json
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelmill.serve.heads import MOST_HEADS, Heads
from modelmill.serve.http import Limits, Request, Response, json_response
from tests.unit.serve.support import post
from tests.unit.serve.test_http import Address, eventually, listening


def heard(request: Request) -> Response:
    """Tells what the handler was given."""
    body = bytes(request.body).decode("latin-1")
    return json_response({"method": request.method, "path": request.path, "headers": dict(request.headers), "body": body})


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with listening(Limits(), handler=heard) as (where, _, _):
        yield where


def answers(address: Address, pieces: list[bytes], *, count: int) -> list[dict[str, object]]:
    """What was heard of so many requests, sent on one connection in these pieces."""
    found: list[dict[str, object]] = []
    with socket.create_connection(address, timeout=10) as connection, connection.makefile("rb") as stream:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            connection.sendall(piece)
        while len(found) < count:
            lines = iter(stream.readline, b"\r\n")
            length = next(int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length"))
            for _ in lines:
                pass
            found.append(json.loads(stream.read(length)))
    return found


MESSAGES = [post("/a", b"one"), post("/a", b"two"), post("/b", b""), post("/a", b"longer"), b"GET /c HTTP/1.1\r\nHost: t\r\n\r\n"]


@given(
    order=st.lists(st.sampled_from(range(len(MESSAGES))), min_size=1, max_size=8),
    cuts=st.lists(st.integers(1, 200), max_size=6),
)
@settings(max_examples=40, deadline=None)
def test_the_same_is_heard_the_first_time_and_later_however_it_is_cut(
    address: Address, order: list[int], cuts: list[int]
) -> None:
    whole = b"".join(MESSAGES[i] for i in order)
    pieces = []
    for cut in cuts:
        pieces.append(whole[:cut])
        whole = whole[cut:]
    expected = [("POST", "/a", "one"), ("POST", "/a", "two"), ("POST", "/b", ""), ("POST", "/a", "longer"), ("GET", "/c", "")]
    found = answers(address, [*pieces, whole], count=len(order))
    assert [(one["method"], one["path"], one["body"]) for one in found] == [expected[i] for i in order]


def test_a_known_head_with_less_than_its_body_waits_for_the_rest(address: Address) -> None:
    message = post("/a", b"123456")
    for _ in range(3):
        (found,) = answers(address, [message[:-3], message[-3:]], count=1)
        assert found["body"] == "123456"


def test_headers_are_those_of_the_message(address: Address) -> None:
    for key in ("first", "second", "first"):
        (found,) = answers(address, [post("/a", b"x", f"X-Key: {key}")], count=1)
        assert isinstance(found["headers"], dict)
        assert found["headers"]["x-key"] == key


def test_a_known_head_that_asks_to_close_closes() -> None:
    with listening(Limits(), handler=heard) as (address, listener, _):
        for _ in range(3):
            answers(address, [post("/a", b"x", "Connection: close")], count=1)
            assert eventually(lambda: not listener.connections)


def test_heads_without_number_take_no_memory_without_bound() -> None:
    heads = Heads()
    for i in range(3 * MOST_HEADS):
        message = post("/a", b"x", f"X-Request-Id: {i}")
        heads.learn(message, Request("POST", "/a", {}, b"x"), keep_alive=True)
        assert heads.find(message)
    remembered = sum(heads.find(post("/a", b"x", f"X-Request-Id: {i}")) is not None for i in range(3 * MOST_HEADS))
    assert 0 < remembered <= MOST_HEADS
