"""Requests of HTTP/2 that are taken at once instead of frame by frame; no client can tell."""

import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelmill.serve.http import Limits
from modelmill.serve.http2 import frames
from modelmill.serve.http2.frames import Error
from modelmill.serve.http2.usual import LEAST_BYTES, usual
from tests.unit.serve.test_http2 import Client, Server, data, headers, listening, request

KINDS = st.sampled_from([frames.DATA, frames.HEADERS, frames.WINDOW_UPDATE, frames.PING])
FLAGS = st.sampled_from([0, frames.END_STREAM, frames.END_HEADERS, frames.PADDED])
STREAMS = st.sampled_from([0, 1, 3, frames.LARGEST, frames.LARGEST + 2])
FRAMES = st.builds(frames.frame, KINDS, FLAGS, STREAMS, st.sampled_from([b"", b"body", b"\0\0\0\0", b"\x80\0\0\0", b"x" * 300]))


def window(stream: int, size: int) -> bytes:
    return frames.number(frames.WINDOW_UPDATE, stream, size)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with listening(Limits(max_head_bytes=2000)) as found:
        yield found


@given(many=st.lists(FRAMES, max_size=5), more=st.binary(max_size=20))
def test_whatever_is_taken_is_exactly_headers_a_window_the_body_and_another_window(many: list[bytes], more: bytes) -> None:
    sent = b"".join(many) + more
    found = usual(memoryview(sent)) if len(sent) >= LEAST_BYTES else None
    if found is None:
        return
    again = frames.frame(frames.HEADERS, frames.END_HEADERS, found.stream, found.block)
    again += window(found.stream, found.window) if found.window else b""
    begin = len(again) + frames.HEAD_BYTES
    assert (found.begin, found.size) == (begin, len(data(found.stream, sent[begin : begin + found.size])) - frames.HEAD_BYTES)
    again += data(found.stream, sent[begin : begin + found.size])
    assert 0 <= found.credit <= frames.LARGEST
    assert sent[: len(again)] == again
    rest = sent[len(again) : found.end]
    assert (len(rest) == 13 and found.credit > 0) or (not rest and not found.credit)


def test_what_grpcs_clients_send_is_taken() -> None:
    sent = headers(5) + window(5, 5) + data(5, b"body") + window(0, 7)
    found = usual(memoryview(sent + b"more"))
    assert found is not None
    assert (found.stream, found.window, found.credit, found.end) == (5, 5, 7, len(sent))


@settings(max_examples=60, deadline=None)
@given(
    bodies=st.lists(st.tuples(st.binary(max_size=60), st.booleans(), st.booleans(), st.booleans()), min_size=2, max_size=6),
    cuts=st.lists(st.integers(1, 150), max_size=5),
)
def test_answers_are_the_same_however_requests_are_cut(
    server: Server, bodies: list[tuple[bytes, bool, bool, bool]], cuts: list[int]
) -> None:
    whole = b""
    for i, (body, opens, credits, pings) in enumerate(bodies):
        stream = 2 * i + 1
        whole += headers(stream) + (window(stream, 5) if opens else b"") + data(stream, body) + (window(0, 9) if credits else b"")
        whole += frames.frame(frames.PING, 0, 0, b"12345678") if pings else b""
    with Client(server) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for cut in cuts:
            client.send(whole[:cut])
            whole = whole[cut:]
        client.send(whole)
        for i, (body, *_) in enumerate(bodies):
            assert client.answer(2 * i + 1) == body


def test_an_answer_waits_for_the_window_that_came_with_its_request(server: Server) -> None:
    with Client(server, greet=frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 2})) as client:
        client.send(request(1, b"x"))
        assert client.answer(1) == b"x"
        client.send(headers(3) + window(3, 2) + data(3, b"longer"))
        assert client.until(frames.DATA)[3] == b"long"
        client.send(window(3, 2))
        assert client.answer(3) == b"er"


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (request(2), Error.PROTOCOL_ERROR),
        (request(3) + request(1), Error.PROTOCOL_ERROR),
        (request(3) + window(0, 0), Error.PROTOCOL_ERROR),
        (request(3) + window(0, frames.LARGEST), Error.FLOW_CONTROL_ERROR),
    ],
    ids=["even", "backwards", "no credit", "too much credit"],
)
def test_a_request_that_looks_usual_breaks_no_rule_unseen(server: Server, sent: bytes, code: Error) -> None:
    with Client(server) as client:
        client.send(request(1))
        assert client.answer(1) == b"x"
        client.send(sent)
        kind, _, _, payload = next(frame for frame in iter(client.frame, None) if frame[0] in (frames.GOAWAY, frames.RST_STREAM))
        assert int.from_bytes(payload[4:8] if kind == frames.GOAWAY else payload, "big") in (code, Error.STREAM_CLOSED)


def test_a_window_beyond_the_largest_is_refused_for_its_stream(server: Server) -> None:
    with Client(server) as client:
        client.send(request(1))
        assert client.answer(1) == b"x"
        client.send(headers(3) + window(3, frames.LARGEST) + data(3, b"y"))
        assert client.until(frames.RST_STREAM, stream=3)[3] == int(Error.FLOW_CONTROL_ERROR).to_bytes(4, "big")
