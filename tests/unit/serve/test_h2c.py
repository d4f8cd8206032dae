"""The REST protocols over HTTP/2 as their clients meet them: curl, gRPC's own client on the HTTP port, load, keys, drain.

The protocols' own tests run over both versions: test_protocols.py, test_surface.py, test_encoding.py.
"""

import json
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc

from modelmill.serve.http2 import frames
from modelmill.signature import Signature, Tensor
from tests.unit.serve.curl import Answer, curl
from tests.unit.serve.support import Running, post, raw, running
from tests.unit.serve.test_batching import Gate
from tests.unit.serve.test_http import eventually
from tests.unit.serve.test_http2 import Client, data
from tests.unit.serve.test_rest_stream import answer, given_up, head

PREDICT = "/v1/models/m:predict"
INFER = "/v2/models/m/infer"


def ask(server: Running, path: str, body: Any = None, **headers: str) -> Answer:
    """Over HTTP/2; names in `headers` have _ for -."""
    content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    url = f"http://127.0.0.1:{server.server.port}{path}"
    return curl("HTTP/2", "GET" if body is None else "POST", url, content, headers=named)


def connected(server: Running) -> Client:
    return Client(server.server)


def row(first: float) -> bytes:
    return json.dumps({"instances": [[first, 0, 0]]}).encode()


def test_an_offer_to_upgrade_is_answered_over_http_1() -> None:
    """RFC 9113 has dropped that way to HTTP/2, and a server may ignore an offer (RFC 9110, section 7.8)."""
    with running() as server:
        url = f"http://127.0.0.1:{server.server.port}{PREDICT}"
        command = ["curl", "-sS", "--http2", "-w", "%{http_version}", "-d", row(1).decode(), url]
        asked = subprocess.run(command, capture_output=True, timeout=30, check=True)
        assert asked.stdout == b'{"predictions":[[2.0,0.0,0.0]]}1.1'


def test_a_tensor_of_12_mb_goes_up_and_down_unchanged() -> None:
    values = np.random.default_rng(1).random((1 << 20, 3), dtype=np.float32)
    tensor = {"name": "x", "shape": [*values.shape], "datatype": "FP32", "parameters": {"binary_data_size": values.nbytes}}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    with running(batcher_rows=1 << 20) as server:
        status, content, headers = ask(server, INFER, header + values.tobytes(), Inference_Header_Content_Length=str(len(header)))
    assert status == 200, content[:300]
    length = int(headers["inference-header-content-length"])
    assert np.array_equal(np.frombuffer(content[length:], "<f4").reshape(values.shape), values * 2)


def test_embeddings_are_made_from_tokens() -> None:
    signature = Signature(
        inputs=(Tensor(name="ids", datatype="INT64", shape=(-1, -1), pad=0),), outputs=(Tensor(name="vector", shape=(-1, 2)),)
    )
    with running(lambda ids: ids[:, :2].float(), signature=signature) as server:
        status, content, _ = ask(server, "/v1/embeddings", {"model": "m", "input": [[5, 7], [1, 2]]})
        assert (status, [entry["embedding"] for entry in json.loads(content)["data"]]) == (200, [[5, 7], [1, 2]])
        status, content, _ = ask(server, "/v1/embeddings", {"model": "other", "input": [5, 7]})
        assert (status, "'other'" in json.loads(content)["error"]["message"]) == (404, True)


def test_grpc_is_served_on_the_http_port_too_and_on_the_same_connection() -> None:
    with running() as server:
        client = triton_grpc.InferenceServerClient(f"127.0.0.1:{server.server.port}")
        tensor = triton_grpc.InferInput("x", [1, 3], "FP32").set_data_from_numpy(np.ones((1, 3), np.float32))
        assert client.is_server_ready()
        assert client.infer("m", [tensor]).as_numpy("y").tolist() == [[2, 2, 2]]
        client.close()
        with connected(server) as both:
            both.send(head(1, "/inference.GRPCInferenceService/ServerLive", content_type="application/grpc"), data(1, bytes(5)))
            assert both.until(frames.DATA)[3] == bytes((0, 0, 0, 0, 2, 8, 1))
            both.send(head(3, PREDICT), data(3, row(1)))
            assert json.loads(answer(both, 3)[1]) == {"predictions": [[2, 0, 0]]}


def test_requests_of_one_connection_share_batches_and_are_counted_once() -> None:
    gate = Gate()
    with running(gate) as server, connected(server) as client:
        client.send(head(1, PREDICT), data(1, row(1)))
        assert eventually(lambda: server.metric("queue_seconds_count") == 1)
        client.send(*(head(stream, PREDICT) + data(stream, row(stream)) for stream in range(3, 13, 2)))
        assert eventually(lambda: server.metric("queue_depth") == 5)
        gate.open.set()
        assert json.loads(answer(client, 11)[1]) == {"predictions": [[22, 0, 0]]}
        assert gate.batches == [[1], [3, 5, 7, 9, 11]]
        assert server.requests_by_code() == {"200": 6}


def test_a_full_queue_sheds_with_retry_after() -> None:
    gate = Gate()
    with running(gate, queue_limit=1) as server, connected(server) as client:
        client.send(head(1, PREDICT), data(1, row(1)))
        assert eventually(lambda: server.metric("queue_seconds_count") == 1)
        client.send(*(head(stream, PREDICT) + data(stream, row(stream)) for stream in (3, 5)))
        fields, body = answer(client, 5)
        assert (fields[":status"], fields["retry-after"], "error" in json.loads(body)) == ("503", "1", True)
        gate.open.set()
        assert json.loads(answer(client, 3)[1]) == {"predictions": [[6, 0, 0]]}
        assert server.requests_by_code() == {"200": 2, "503": 1}


def test_a_request_that_waits_too_long_gets_504_and_never_reaches_the_model() -> None:
    gate = Gate()
    late = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [7, 0, 0]}], "parameters": {"timeout": 100_000}}
    with running(gate) as server, connected(server) as client:
        client.send(head(1, PREDICT), data(1, row(1)))
        assert eventually(lambda: server.metric("queue_seconds_count") == 1)
        assert ask(server, INFER, late)[0] == 504
        gate.open.set()
        assert json.loads(answer(client, 1)[1]) == {"predictions": [[2, 0, 0]]}
        assert gate.batches == [[1.0]]
        assert server.metric("expired_total") == 1


@pytest.mark.parametrize("way", ["RST_STREAM", "a broken connection"])
def test_a_request_whose_client_has_left_never_reaches_the_model(way: str) -> None:
    gate = Gate()
    with running(gate) as server, connected(server) as client, connected(server) as leaving:
        client.send(head(1, PREDICT), data(1, row(1)))
        assert eventually(lambda: server.metric("queue_seconds_count") == 1)
        leaving.send(head(1, PREDICT), data(1, row(7)))
        assert eventually(lambda: server.metric("queue_depth") == 1)
        if way == "RST_STREAM":
            leaving.send(given_up(1))
        else:
            leaving.socket.shutdown(socket.SHUT_RDWR)
        assert eventually(lambda: server.metric("queue_depth") == 0)
        gate.open.set()
        assert json.loads(answer(client, 1)[1]) == {"predictions": [[2, 0, 0]]}
        assert gate.batches == [[1.0]]
        assert server.metric("cancelled_total") == 1
        assert server.requests_by_code() == {"200": 1, "499": 1}


def test_an_api_key_is_needed_for_everything_but_health(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    body = {"instances": [[1, 2, 3]]}
    with running(api_key_file=str(tmp_path / "key")) as server:
        status, _, headers = ask(server, PREDICT, body)
        assert (status, headers["www-authenticate"]) == (401, "Bearer")
        assert ask(server, PREDICT, body, Authorization="Bearer wrong")[0] == 401
        assert ask(server, PREDICT, body, Authorization="Bearer secret")[0] == 200
        assert ask(server, PREDICT, body, X_API_Key="secret")[0] == 200
        assert ask(server, "/v2/health/ready")[0] == 200


def test_draining_answers_what_was_asked_and_sends_the_clients_elsewhere() -> None:
    gate = Gate()
    with running(gate) as server, connected(server) as client, ThreadPoolExecutor(1) as background:
        client.send(head(1, PREDICT), data(1, row(1)))
        assert eventually(lambda: server.metric("queue_seconds_count") == 1)
        left = background.submit(server.on_loop, server.server.drain(propagation_seconds=0.3))
        assert eventually(lambda: server.admin("/readyz")[0] == 503)
        # Clients that have not heard of it yet are still welcome.
        assert ask(server, "/v2/health/live")[0] == 200
        assert b"Connection: close" in raw(server.address, post("/v2/health/live", b""))
        assert client.goaway()[0] == frames.LARGEST
        client.send(frames.frame(frames.PING, frames.ACK, 0, client.until(frames.PING)[3]))
        assert client.goaway()[0] == 1
        gate.open.set()
        assert json.loads(answer(client, 1)[1]) == {"predictions": [[2, 0, 0]]}
        assert client.frame() is None
        assert left.result() == 0
