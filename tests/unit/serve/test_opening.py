"""The first bytes on the HTTP port: which version of HTTP they begin, however they are cut."""

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from modelmill.serve.http import Request, Response, json_response
from modelmill.serve.http2 import frames
from tests.unit.serve.support import post, raw
from tests.unit.serve.test_http import LARGE, LIMITS, eventually
from tests.unit.serve.test_http2 import Client, data
from tests.unit.serve.test_rest_stream import WHOLE, Open, answer, head, listening


@pytest.fixture(scope="module")
def server() -> Iterator[Open]:
    with listening(replace(LIMITS, grace_seconds=20.0)) as found:
        yield found


def test_both_versions_are_spoken_on_one_port_however_the_preface_is_cut(server: Open) -> None:
    with Client(server, greet=b"") as client:
        for byte in frames.PREFACE + frames.settings({}) + head(1) + data(1, b"12345"):
            client.send(bytes((byte,)))
        fields, body = answer(client, 1)
    assert fields == {":status": "200", "content-type": "application/json", "content-length": str(len(body))}
    assert body == b'{"path":"/a","bytes":5}'
    assert raw(server.address, post("/a", b"12345", "Connection: close")).endswith(body)


@pytest.mark.parametrize("sent", [post("/a", b""), b"PUT /a HTTP/1.1\r\nContent-Length: 0\r\n\r\n"], ids=["POST", "PUT"])
def test_what_begins_like_the_preface_and_is_not_is_http_1(server: Open, sent: bytes) -> None:
    with Client(server, greet=sent[:1]) as client:
        assert eventually(lambda: server.listener.busy == 1)
        # Meanwhile another connection uses the memory that both are received in.
        assert b"200 OK" in raw(server.address, b"GET /b HTTP/1.1\r\nConnection: close\r\n\r\n")
        client.send(sent[1:])
        assert client.socket.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_preface_that_is_not_quite_one_is_refused_as_http_1(server: Open) -> None:
    assert raw(server.address, b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n").startswith(b"HTTP/1.1 400")


def test_half_a_preface_is_waited_for_as_long_as_for_a_request() -> None:
    with listening() as server, Client(server, greet=frames.PREFACE[:10]) as client:
        assert eventually(lambda: server.listener.busy == 1)
        began = time.monotonic()
        assert client.frame() is None
        assert time.monotonic() - began < 3
        assert server.listener.busy == 0


def test_an_idle_connection_that_said_nothing_is_closed() -> None:
    with listening() as server, Client(server, greet=b"") as client:
        assert eventually(lambda: len(server.listener.connections) == 1)
        assert client.frame() is None
        assert eventually(lambda: not server.listener.connections)


def test_a_connection_that_begins_when_the_port_has_closed_is_answered_and_asked_to_leave() -> None:
    def leave(request: Request) -> Response:
        if request.path == "/leave":
            here.listener.stop_accepting()
        return json_response({})

    with listening(LARGE, handler=leave) as here, Client(here, greet=b"") as late:
        assert b"200 OK" in raw(here.address, post("/leave", b"", "Connection: close"))
        late.send(frames.PREFACE, frames.settings({}), head(1, flags=WHOLE))
        assert answer(late, 1)[0][":status"] == "200"
        assert late.goaway()[0] == frames.LARGEST
