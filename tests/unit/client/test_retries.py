"""What is tried again, when, and which error comes of it in the end."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import numpy as np
import pytest

from modelmill.client import ClientError, ConnectionLost, InferenceError, TimedOut, Unavailable
from tests.ports import free_port
from tests.unit.client.scripted import Answer, Asked, echo, outputs, reading, replies, scripted
from tests.unit.client.support import Opener

X = np.array([[1, 2]], dtype=np.float32)
DONE = outputs({"name": "x", "shape": [1], "datatype": "FP32", "data": [1]})


def full(retry_after: str = "0") -> Answer:
    return Answer(status=503, body=b'{"error": "too many requests wait"}', headers={"Retry-After": retry_after})


def test_a_server_without_room_is_asked_again(opened: Opener) -> None:
    with scripted(replies(full(), Answer(status=429), DONE)) as server, opened(server.url) as client:
        assert client.infer("m", {"x": X})["x"].tolist() == [1.0]
    assert len(server.paths("POST")) == 3


def test_when_to_come_back_is_a_number_a_date_or_not_said(opened: Opener) -> None:
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    for told, expected in {"7": 7.0, in_a_minute: pytest.approx(60.0, abs=10.0), "soon": None}.items():
        with scripted(replies(full(told))) as server, opened(server.url, retries=0) as client:
            with pytest.raises(Unavailable) as refused:
                client.infer("m", {"x": X})
            assert refused.value.retry_after == expected


def test_a_server_that_never_has_room_is_unavailable(opened: Opener) -> None:
    with scripted(replies(*[full("1")] * 9)) as server, opened(server.url, retries=1) as client:
        began = time.monotonic()
        with pytest.raises(Unavailable, match="503: too many requests wait") as refused:
            client.infer("m", {"x": X})
        assert time.monotonic() - began >= 1.0
    assert (refused.value.status, refused.value.retry_after) == (503, 1.0)
    assert len(server.paths("POST")) == 2


def test_nobody_waits_beyond_the_timeout(opened: Opener) -> None:
    with scripted(replies(*[full("60")] * 9)) as server, opened(server.url) as client:
        began = time.monotonic()
        with pytest.raises(Unavailable):
            client.infer("m", {"x": X}, timeout=5.0)
        assert time.monotonic() - began < 4.0
    assert len(server.paths("POST")) == 1


def test_a_server_that_comes_back_is_found(opened: Opener) -> None:
    port = free_port()
    with opened(f"http://127.0.0.1:{port}", retries=30) as client, later(port):
        assert client.metadata("m").name == "m"


@contextmanager
def later(port: int) -> Iterator[None]:
    """A server that begins to listen after a moment, and answers one request."""

    def serve() -> None:
        time.sleep(0.3)
        with socket.create_server(("127.0.0.1", port)) as listening, listening.accept()[0] as connection:
            connection.recv(65536)
            body = b'{"name": "m", "inputs": [], "outputs": []}'
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield
    thread.join(10)


def test_nobody_there_is_unavailable(opened: Opener) -> None:
    where = f"http://127.0.0.1:{free_port()}"
    with opened(where, retries=1) as client, pytest.raises(Unavailable, match=f"{where}: no connection") as refused:
        client.infer("m", {"x": X})
    assert refused.value.status is None


def test_an_inference_whose_connection_broke_is_not_sent_twice(opened: Opener) -> None:
    with scripted(replies(Answer(cut=True), DONE)) as server, opened(server.url) as client:
        with pytest.raises(ConnectionLost, match="the connection broke"):
            client.infer("m", {"x": X})
        assert client.infer("m", {"x": X})["x"].tolist() == [1.0]
    assert len(server.paths("POST")) == 2


def test_what_only_reads_is_sent_again(opened: Opener) -> None:
    broken = iter([True, True, False])

    def script(asked: Asked) -> Answer:
        return Answer(cut=True) if next(broken) else reading(asked)

    with scripted(script) as server, opened(server.url) as client:
        assert client.metadata("m").name == "m"
    assert len(server.asked) == 3


def test_a_refusal_is_final(opened: Opener) -> None:
    for status in (400, 404, 500):
        with scripted(replies(Answer(status=status, body=b"no JSON"), DONE)) as server, opened(server.url) as client:
            with pytest.raises(InferenceError, match=f"{status}: no JSON"):
                client.infer("m", {"x": X})
            assert len(server.paths("POST")) == 1


def test_no_answer_in_time_is_an_error_of_its_own(opened: Opener) -> None:
    done = threading.Event()

    def slow(asked: Asked) -> Answer:
        if asked.method == "POST":
            done.wait(10)
        return echo(asked)

    with scripted(slow) as server, opened(server.url) as client:
        began = time.monotonic()
        with pytest.raises(TimedOut) as late:
            client.infer("m", {"x": X}, timeout=0.3)
        assert time.monotonic() - began < 3.0
        done.set()
    assert isinstance(late.value, TimeoutError)
    assert isinstance(late.value, ClientError)
    assert len(server.paths("POST")) == 1


def test_a_server_that_ran_out_of_time_says_so_in_the_same_way(opened: Opener) -> None:
    late = Answer(status=504, body=b'{"error": "in the queue"}')
    with (
        scripted(replies(late)) as server,
        opened(server.url) as client,
        pytest.raises(TimedOut, match="504: in the queue"),
    ):
        client.infer("m", {"x": X})


def test_datatypes_are_learned_anew_after_a_refusal(opened: Opener) -> None:
    declared = "BF16"

    def script(asked: Asked) -> Answer:
        if asked.method == "GET":
            answer = reading(asked)
            return Answer(body=answer.body.replace(b"FP32", declared.encode()))
        return echo(asked) if asked.json["inputs"][0]["datatype"] == declared else Answer(status=400)

    with scripted(script) as server, opened(server.url) as client:
        client.infer("m", {"x": X})
        declared = "FP32"  # another version is served now
        with pytest.raises(InferenceError):
            client.infer("m", {"x": X})
        np.testing.assert_array_equal(client.infer("m", {"x": X})["x"], X)
