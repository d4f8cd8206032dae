"""Compressed bodies, in and out: which codings, how far a body may grow, what broken ones are told, who chooses."""

import gzip
import json
import random
import socket
import struct
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.http as triton
import zstandard

from modelmill.serve import encoding
from modelmill.serve.errors import Refusal
from modelmill.serve.http import Response
from modelmill.signature import Signature, Tensor
from tests.unit.serve.curl import VERSIONS
from tests.unit.serve.support import Running, post, running
from tests.unit.serve.test_http import eventually

PREDICT = "/v1/models/m:predict"
LIMIT = 200_000
ROW = json.dumps({"instances": [[1.0] * 64]}).encode()
LARGE = json.dumps({"instances": [[1.0] * 64] * 100}).encode()
WIDE = Signature(inputs=(Tensor(name="x", shape=(-1, 64)),), outputs=(Tensor(name="y", shape=(-1, 64)),))


def streamed_zstd(content: bytes) -> bytes:
    """Without its size in the frame's header, as by those who do not know it when they begin."""
    stream = zstandard.ZstdCompressor().compressobj()
    return stream.compress(content) + stream.flush()


COMPRESS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "zstd": ("zstd", zstandard.compress),
    "zstd of unknown size": ("zstd", streamed_zstd),
}
DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
    "zstd": lambda body: zstandard.ZstdDecompressor().decompress(body),
}
every = pytest.mark.parametrize(("coding", "compress"), COMPRESS.values(), ids=COMPRESS)


@pytest.fixture(scope="module", params=VERSIONS)
def server(request: pytest.FixtureRequest) -> Iterator[Running]:
    with running(lambda x: x * 2, signature=WIDE, max_request_bytes=LIMIT) as handle:
        handle.curl = request.param
        yield handle


def ask(server: Running, body: bytes, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    return server.exchange("POST", PREDICT, body, headers={name.replace("_", "-"): value for name, value in headers.items()})


def refused(server: Running, body: bytes, *, coding: str) -> tuple[int, str]:
    status, content, _ = ask(server, body, Content_Encoding=coding)
    return status, json.loads(content)["error"]


@every
def test_a_compressed_request_is_answered_as_if_it_were_not(
    server: Running, coding: str, compress: Callable[[bytes], bytes]
) -> None:
    before = server.metric("received_bytes_total")
    sent = compress(ROW)
    status, content, _ = ask(server, sent, Content_Encoding=coding)
    assert (status, json.loads(content)) == (200, {"predictions": [[2.0] * 64]})
    assert server.metric("received_bytes_total") - before == len(sent)


def test_the_names_of_codings_are_read_as_http_means_them(server: Running) -> None:
    for name, body in (("GZIP", gzip.compress(ROW)), ("x-gzip", gzip.compress(ROW)), ("identity", ROW)):
        assert ask(server, body, Content_Encoding=name)[0] == 200


def test_a_request_without_a_body_cannot_be_compressed_wrongly(server: Running) -> None:
    assert server.exchange("GET", "/v2", headers={"Content-Encoding": "gzip"})[0] == 200


@every
def test_a_bomb_is_refused_before_it_grows(server: Running, coding: str, compress: Callable[[bytes], bytes]) -> None:
    bomb = compress(b"0" * (64 << 20))
    assert len(bomb) < LIMIT
    assert refused(server, bomb, coding=coding) == (
        413,
        f"the request's body is larger than {LIMIT} bytes once decompressed",
    )
    tracemalloc.start()
    try:
        with pytest.raises(Refusal):
            encoding.decompressed(bomb, coding, most_bytes=LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 4 * LIMIT
    finally:
        tracemalloc.stop()


@every
def test_a_body_of_exactly_the_limit_is_taken(coding: str, compress: Callable[[bytes], bytes]) -> None:
    content = random.Random(0).randbytes(10_000)
    assert encoding.decompressed(compress(content), coding, most_bytes=10_000) == content
    with pytest.raises(Refusal) as refusal:
        encoding.decompressed(compress(content), coding, most_bytes=9_999)
    assert refusal.value.status == 413


@every
def test_what_is_not_one_whole_stream_is_refused(server: Running, coding: str, compress: Callable[[bytes], bytes]) -> None:
    whole = compress(ROW)
    for broken in (whole[:-1], whole[:10], whole + b"x", whole + whole, b"not compressed"):
        status, text = refused(server, broken, coding=coding)
        assert (status, coding in text) == (400, True), text


def test_damaged_bytes_are_noticed(server: Running) -> None:
    for coding in ("gzip", "deflate"):
        damaged = bytearray(COMPRESS[coding][1](ROW))
        damaged[-6] ^= 1
        assert refused(server, bytes(damaged), coding=coding)[0] == 400


def test_a_zstd_frame_that_lies_about_its_size_is_refused(server: Running) -> None:
    frame = bytearray(zstandard.compress(b"0" * (8 << 20)))
    struct.pack_into("<I", frame, 6, 70_000)
    assert zstandard.frame_content_size(bytes(frame)) == 70_000
    assert refused(server, bytes(frame), coding="zstd")[0] == 400


def test_a_zstd_frame_may_not_ask_for_a_large_window(server: Running) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=24)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    assert refused(server, stream.compress(ROW) + stream.flush(), coding="zstd")[0] == 400


@pytest.mark.parametrize("coding", ["br", "compress", "gzip, gzip", "\xff"])
def test_an_unknown_coding_is_refused_naming_the_possible_ones(server: Running, coding: str) -> None:
    status, content, headers = ask(server, ROW, Content_Encoding=coding)
    assert (status, headers["accept-encoding"]) == (415, "zstd, gzip, deflate")
    assert "use one of deflate, gzip, zstd" in json.loads(content)["error"]


def test_a_stranger_cannot_make_the_server_decompress(tmp_path: Any) -> None:
    (tmp_path / "keys").write_text("key")
    with running(api_key_file=str(tmp_path / "keys")) as guarded:
        assert ask(guarded, b"not compressed", Content_Encoding="gzip")[0] == 401


# --- answers


ACCEPTED = {
    "gzip": "gzip",
    "gzip, deflate, br, zstd": "zstd",
    "gzip, deflate": "gzip",
    "deflate": "deflate",
    "x-gzip": "gzip",
    "gzip;q=1.0, zstd;q=0.5": "gzip",
    "zstd;q=0.5, gzip ; q=0.8": "gzip",
    "GZIP;Q=0.3": "gzip",
    "*": "zstd",
    "*, zstd;q=0": "gzip",
    "gzip;q=0": None,
    "*;q=0": None,
    "identity": None,
    "identity;q=0.5, gzip;q=0.4": None,
    "identity;q=0, gzip;q=0.4": "gzip",
    "br": None,
    "": None,
    "gzip;q=high": None,
    ",, ,gzip": "gzip",
}


@pytest.mark.parametrize(("accepted", "coding"), ACCEPTED.items())
def test_the_answer_comes_in_the_coding_that_the_client_likes_best(server: Running, accepted: str, coding: str | None) -> None:
    status, content, headers = ask(server, LARGE, Accept_Encoding=accepted)
    assert (status, headers.get("content-encoding"), headers["vary"]) == (200, coding, "Accept-Encoding")
    plain = DECOMPRESS[coding](content) if coding else content
    assert json.loads(plain) == {"predictions": [[2.0] * 64] * 100}
    assert (len(content) < len(plain)) == (coding is not None)


def test_nobody_gets_a_compressed_answer_unasked(server: Running) -> None:
    connection = socket.create_connection(server.address)
    connection.sendall(post(PREDICT, LARGE, "Connection: close"))
    head = connection.makefile("rb").read().partition(b"\r\n\r\n")[0].lower()
    connection.close()
    assert b"content-encoding" not in head
    assert b"vary" not in head


def test_small_answers_and_those_that_would_not_shrink_go_out_as_they_are(server: Running) -> None:
    _, content, headers = ask(server, ROW, Accept_Encoding="gzip")
    assert (len(content) < encoding.LEAST_BYTES, "content-encoding" in headers) == (True, False)
    noise = Response(body=(random.Random(0).randbytes(20_000),))
    for coding in encoding.CODINGS:
        assert encoding.compressed(noise, coding).body == noise.body


def test_answers_that_need_no_model_are_compressed_too(server: Running) -> None:
    _, content, headers = server.exchange("GET", "/openapi.json", headers={"Accept-Encoding": "gzip"})
    assert headers["content-encoding"] == "gzip"
    assert json.loads(gzip.decompress(content))["openapi"] == "3.1.0"


def test_sent_bytes_are_counted_as_they_were_on_the_wire(server: Running) -> None:
    before = server.metric("sent_bytes_total")
    _, content, _ = ask(server, LARGE, Accept_Encoding="gzip")
    assert server.metric("sent_bytes_total") - before == len(content)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_the_reference_client_compresses_both_ways(server: Running, algorithm: str) -> None:
    client = triton.InferenceServerClient(f"127.0.0.1:{server.server.port}")
    values = np.ones((100, 64), np.float32)
    tensor = triton.InferInput("x", [100, 64], "FP32")
    tensor.set_data_from_numpy(values, binary_data=True)
    result = client.infer("m", [tensor], request_compression_algorithm=algorithm, response_compression_algorithm=algorithm)
    assert np.array_equal(result.as_numpy("y"), values * 2)
    client.close()


# --- in a thread


class Held:
    """Stands in for a function: it waits until it is let go on."""

    def __init__(self, work: Callable[..., Any]) -> None:
        self._work = work
        self.began = threading.Event()
        self.open = threading.Event()

    def __call__(self, *args: Any, **named: Any) -> Any:
        self.began.set()
        assert self.open.wait(30)
        return self._work(*args, **named)


@pytest.mark.parametrize("name", ["decompressed", "compressed"])
def test_others_are_answered_meanwhile_and_a_client_that_leaves_is_counted_once(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    held = Held(getattr(encoding, name))
    monkeypatch.setattr(encoding, name, held)
    with running(lambda x: x * 2, signature=WIDE) as server:
        leaving = socket.create_connection(server.address)
        leaving.sendall(post(PREDICT, gzip.compress(LARGE), "Content-Encoding: gzip", "Accept-Encoding: gzip"))
        assert held.began.wait(10)
        assert server.predict([[1.0] * 64])[0] == 200
        leaving.close()
        assert eventually(lambda: server.metric("cancelled_total") == 1)
        held.open.set()
        assert ask(server, gzip.compress(ROW), Content_Encoding="gzip")[0] == 200
        assert server.requests_by_code() == {"200": 2, "499": 1}
        assert server.admin("/load")[1]["inflight"] == 0


def in_flight(server: Running, count: int) -> bool:
    return bool(server.admin("/load")[1]["inflight"] == count)


def test_a_compressed_request_for_a_slow_model_leaves_the_queue_with_its_client() -> None:
    gate = threading.Event()

    def slow(x: torch.Tensor) -> torch.Tensor:
        if x.any():
            assert gate.wait(30)
        else:
            threading.Event().wait(0.01)
        return x

    with running(slow, signature=WIDE) as server:
        clients = [socket.create_connection(server.address) for _ in range(2)]
        for count, client in enumerate(clients, start=1):
            client.sendall(post(PREDICT, gzip.compress(ROW), "Content-Encoding: gzip"))
            assert eventually(partial(in_flight, server, count))
        clients[1].close()
        assert eventually(lambda: server.metric("cancelled_total") == 1)
        assert server.metric("queue_depth") == 0
        gate.set()
        clients[0].close()
