"""The fast path through the real server: no client can tell it from the usual way, and nothing is lost or counted twice."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelmill.signature import Signature, Tensor
from tests.unit.serve.support import DOUBLE, Running, double, post, running
from tests.unit.serve.test_http import eventually

PATH = "/v2/models/m/infer"
POISON = 666.0


def body(*rows: list[float], **fields: Any) -> bytes:
    data = [value for row in rows for value in row]
    return json.dumps({**fields, "inputs": [{"name": "x", "datatype": "FP32", "shape": [len(rows), 3], "data": data}]}).encode()


class Client:
    """One kept connection."""

    def __init__(self, connection: socket.socket, stream: BinaryIO) -> None:
        self.connection = connection
        self.stream = stream

    def send(self, *messages: bytes) -> None:
        self.connection.sendall(b"".join(messages))

    def receive(self) -> tuple[int, dict[str, str], Any]:
        status = int(self.stream.readline().split()[1])
        lines = (line.decode().strip() for line in iter(self.stream.readline, b"\r\n"))
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        content = self.stream.read(int(headers["content-length"]))
        return status, headers, json.loads(content) if content else None

    def ask(self, *rows: list[float], path: str = PATH, extra: tuple[str, ...] = (), **fields: Any) -> tuple[int, Any]:
        self.send(post(path, body(*rows, **fields), *extra))
        status, _, answer = self.receive()
        return status, answer


@contextmanager
def client(server: Running) -> Iterator[Client]:
    with socket.create_connection(server.address, timeout=10) as connection, connection.makefile("rb") as stream:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield Client(connection, stream)


def fast(server: Running) -> int:
    return int(server.metric("fast_requests_total"))


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(batcher_rows=8) as server:
        yield server


def test_the_second_request_with_a_head_takes_the_fast_path_and_is_answered_like_the_first(server: Running) -> None:
    with client(server) as one:
        before = fast(server)
        first = one.ask([1, 2, 3], id="same")
        assert fast(server) == before
        assert one.ask([1, 2, 3], id="same") == first
        assert fast(server) == before + 1
        assert first == (
            200,
            {
                "model_name": "m",
                "model_version": "3",
                "id": "same",
                "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 3], "data": [2.0, 4.0, 6.0]}],
            },
        )


ROWS = st.lists(st.lists(st.integers(-100, 100).map(float), min_size=3, max_size=3), min_size=1, max_size=10)


@given(requests=st.lists(st.tuples(ROWS, st.booleans()), min_size=1, max_size=20))
@settings(max_examples=20, deadline=None)
def test_everybody_gets_their_rows_however_requests_meet(server: Running, requests: list[tuple[list[list[float]], bool]]) -> None:
    """Some send what only the usual way reads."""

    def ask(request: tuple[list[list[float]], bool]) -> None:
        rows, unusual = request
        with client(server) as one:
            for _ in range(2):
                status, answer = one.ask(*rows, parameters={"priority": 2}) if unusual else one.ask(*rows)
                assert status == 200
                (output,) = answer["outputs"]
                assert output["shape"] == [len(rows), 3]
                assert output["data"] == [2 * value for row in rows for value in row]

    with ThreadPoolExecutor(8) as clients:
        list(clients.map(ask, requests))
    assert server.admin("/load")[1]["inflight"] == 0


def test_pipelined_requests_are_answered_in_their_order(server: Running) -> None:
    with client(server) as one:
        one.ask([0, 0, 0])
        messages = [post(PATH, body([i, 0, 0], id=str(i))) for i in range(6)]
        one.send(messages[0])
        one.send(b"GET /v2/health/live HTTP/1.1\r\nHost: test\r\n\r\n", *messages[1:])
        found = [one.receive()[2] for _ in range(7)]
        assert [answer.get("id", "live") for answer in found] == ["0", "live", "1", "2", "3", "4", "5"]


def test_a_request_that_arrives_in_pieces_is_answered(server: Running) -> None:
    with client(server) as one:
        message = post(PATH, body([1, 1, 1]))
        one.ask([1, 1, 1])
        for cut in (10, len(message) - 5, message.index(b"\r\n\r\n") + 4):
            one.send(message[:cut])
            time.sleep(0.02)
            one.send(message[cut:])
            assert one.receive()[0] == 200


def test_what_is_wrong_with_a_request_is_told_after_right_ones(server: Running) -> None:
    with client(server) as one:
        for _ in range(2):
            assert one.ask([1, 1, 1])[0] == 200
        one.send(post(PATH, body([1, 1, 1]).replace(b"FP32", b"FP64")))
        status, _, answer = one.receive()
        assert (status, answer["error"]) == (400, "input 'x': datatype 'FP64' given, the model needs FP32")
        assert one.ask([1, 1, 1])[0] == 200


def test_after_a_head_request_answers_have_bodies_again(server: Running) -> None:
    with client(server) as one:
        assert one.ask([1, 1, 1])[0] == 200
        one.send(b"HEAD /v2/health/live HTTP/1.1\r\nHost: test\r\n\r\n")
        while one.stream.readline() != b"\r\n":
            pass
        assert one.ask([1, 1, 1])[1]["outputs"][0]["data"] == [2.0] * 3


def poisoned(x: torch.Tensor) -> torch.Tensor:
    if (x == POISON).any():
        raise ValueError("a value the model cannot stand")
    return x * 2


def together(server: Running, rows: list[list[float]]) -> list[tuple[int, Any]]:
    """Answers to requests that come in the same turn of the loop, on connections that have been used before."""
    with ThreadPoolExecutor(len(rows)) as clients:
        ready = threading.Barrier(len(rows))

        def ask(row: list[float]) -> tuple[int, Any]:
            with client(server) as one:
                one.ask([0, 0, 0])
                ready.wait(10)
                return one.ask(row)

        return list(clients.map(ask, rows))


def test_a_poisoned_request_fails_alone() -> None:
    with running(poisoned) as server:
        for _ in range(5):
            answers = together(server, [[1, 0, 0], [POISON, 0, 0], [2, 0, 0], [3, 0, 0]])
            assert [status for status, _ in answers] == [200, 500, 200, 200]
            assert "ValueError: a value the model cannot stand" in answers[1][1]["error"]
            assert [answer["outputs"][0]["data"][0] for status, answer in answers if status == 200] == [2.0, 4.0, 6.0]
        assert fast(server) > 0
        assert server.requests_by_code() == {"200": 5 * 7, "500": 5}
        assert server.admin("/load")[1]["inflight"] == 0


class Stalling:
    """A short model whose execution waits once it is told to, and the loop with it."""

    def __init__(self) -> None:
        self.stall = threading.Event()
        self.entered = threading.Event()
        self.go = threading.Event()
        self.rows = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.rows += len(x)
        if self.stall.is_set():
            self.stall.clear()
            self.entered.set()
            assert self.go.wait(10)
        return x * 2


@contextmanager
def stalled(module: Stalling, server: Running) -> Iterator[None]:
    """The loop waits in an execution; what is sent meanwhile is there when it goes on."""
    with client(server) as first:
        first.ask([0, 0, 0])
        module.stall.set()
        first.send(post(PATH, body([0, 0, 0])))
        assert module.entered.wait(10)
        yield
        module.go.set()
        assert first.receive()[0] == 200


def test_no_more_wait_than_may_and_the_counts_add_up() -> None:
    module = Stalling()
    with running(module, batcher_rows=2, queue_limit=3) as server:
        clients = [client(server) for _ in range(8)]
        opened = [each.__enter__() for each in clients]
        with stalled(module, server):
            for one in opened:
                one.send(post(PATH, body([1, 0, 0])))
        answers = [one.receive() for one in opened]
        codes = [status for status, _, _ in answers]
        assert codes.count(200) + codes.count(503) == 8
        assert codes.count(503) >= 1
        assert all(headers["retry-after"] == "1" for status, headers, _ in answers if status == 503)
        assert server.metric("shed_total") == codes.count(503)
        assert server.requests_by_code() == {"200": 2 + codes.count(200), "503": codes.count(503)}
        assert server.admin("/load")[1]["inflight"] == 0
        for each in clients:
            each.__exit__(None, None, None)


def test_clients_that_go_away_take_nobody_with_them_and_are_counted() -> None:
    module = Stalling()
    with running(module, batcher_rows=4) as server:
        with client(server) as staying:
            leaving = [socket.create_connection(server.address) for _ in range(10)]
            with stalled(module, server):
                staying.send(post(PATH, body([5, 0, 0])))
                for connection in leaving:
                    connection.sendall(post(PATH, body([1, 0, 0])))
                    connection.close()
            assert staying.receive()[2]["outputs"][0]["data"] == [10.0, 0.0, 0.0]
        assert eventually(lambda: sum(server.requests_by_code().values()) == 13)
        assert set(server.requests_by_code()) <= {"200", "499"}
        assert server.metric("cancelled_total") == server.requests_by_code().get("499", 0)
        assert server.admin("/load")[1]["inflight"] == 0


def test_a_draining_server_closes_connections_with_their_next_answer() -> None:
    module = Stalling()
    with running(module) as server, client(server) as one:
        for _ in range(2):
            assert one.ask([1, 1, 1])[0] == 200
        draining = ThreadPoolExecutor(1)
        with stalled(module, server):
            one.send(post(PATH, body([1, 1, 1])))
        assert one.receive()[0] == 200
        ending = draining.submit(server.on_loop, server.server.drain(propagation_seconds=0.5))
        assert eventually(lambda: server.ask("GET", "/v2/health/ready")[0] == 503)
        one.send(post(PATH, body([1, 1, 1])))
        status, headers, _ = one.receive()
        assert (status, headers["connection"]) == (200, "close")
        assert one.stream.read() == b""
        assert ending.result(10) == 0
        draining.shutdown()


def test_a_key_that_is_not_valid_any_more_does_not_pass(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("old\n")
    with running(api_key_file=str(file)) as server, client(server) as one:
        old = ("Authorization: Bearer old",)
        assert [one.ask([1, 1, 1], extra=old)[0] for _ in range(3)] == [200] * 3
        assert fast(server) == 2
        assert one.ask([1, 1, 1])[0] == 401
        assert one.ask([1, 1, 1], extra=("Authorization: Bearer old2",))[0] == 401
        file.write_text("new\n")
        assert eventually(lambda: one.ask([1, 1, 1], extra=old)[0] == 401)
        assert one.ask([1, 1, 1], extra=("Authorization: Bearer new",))[0] == 200


def test_every_request_is_in_the_metrics_and_the_log() -> None:
    with running() as server, client(server) as one:
        for i in range(10):
            assert one.ask([i, 0, 0], [i, 0, 0])[0] == 200
        size = sum(len(body([i, 0, 0], [i, 0, 0])) for i in range(10))
        assert fast(server) == 9
        assert server.metric("requests_total", protocol="v2", code="200") == 10
        assert server.metric("request_seconds_count", protocol="v2") == 10
        assert 0 < server.metric("request_seconds_sum", protocol="v2") < 10
        assert server.metric("received_bytes_total") == size
        assert server.metric("inferences_total") == 20
        assert server.metric("queue_seconds_count") == 10
        assert server.admin("/load")[1]["requests"] == 10


def test_a_message_larger_than_the_limit_is_refused_also_with_a_known_head() -> None:
    with running(max_request_bytes=400) as server, client(server) as one:
        for _ in range(2):
            assert one.ask([1, 1, 1])[0] == 200
        status, _, answer = _refused(one, body(*[[0.123456789] * 3] * 20))
        assert (status, answer["error"]) == (413, "the request's body is larger than 400 bytes")


def _refused(one: Client, content: bytes) -> tuple[int, dict[str, str], Any]:
    one.send(post(PATH, content))
    return one.receive()


@pytest.mark.parametrize(
    ("module", "signature"),
    [
        (lambda x: x, Signature(inputs=(Tensor(name="x", shape=(-1, -1)),), outputs=(Tensor(name="y", shape=(-1, -1)),))),
        (
            lambda x: x.half(),
            Signature(inputs=(Tensor(name="x", shape=(-1, 3)),), outputs=(Tensor(name="y", datatype="FP16", shape=(-1, 3)),)),
        ),
    ],
    ids=["a free shape", "no plain numbers"],
)
def test_models_without_a_fast_path_are_served(module: Callable[..., Any], signature: Signature) -> None:
    with running(module, signature=signature) as server, client(server) as one:
        for _ in range(3):
            assert one.ask([1, 2, 3])[1]["outputs"][0]["data"] == [1.0, 2.0, 3.0]
        assert fast(server) == 0


def test_a_model_whose_rows_do_not_fit_into_a_small_message_is_served() -> None:
    wide = Signature(inputs=(Tensor(name="x", shape=(-1, 10_000)),), outputs=(Tensor(name="y", shape=(-1,)),))
    with running(lambda x: x.sum(dim=1), signature=wide) as server, client(server) as one:
        for _ in range(3):
            data = json.dumps(
                {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 10_000], "data": [1] * 10_000}]}
            ).encode()
            one.send(post(PATH, data))
            assert one.receive()[2]["outputs"][0]["data"] == [10_000.0]
        assert fast(server) == 0


def test_without_the_native_module_the_server_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelmill.serve.fastpath._fastpath", None)
    with running(double, signature=DOUBLE) as server, client(server) as one:
        for _ in range(3):
            assert one.ask([1, 2, 3])[1]["outputs"][0]["data"] == [2.0, 4.0, 6.0]
        assert fast(server) == 0
