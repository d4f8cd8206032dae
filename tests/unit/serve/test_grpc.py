"""Open Inference Protocol v2 over gRPC, as unmodified tritonclient and plain stubs speak it: answers, streams, refusals."""

import asyncio
import gzip
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import grpc
import ml_dtypes
import numpy as np
import pytest
import torch
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import aio, service_pb2, service_pb2_grpc

from modelmill.contract.servicefile import Tls
from modelmill.observe.concurrency import Concurrency
from modelmill.serve.errors import BadRequest
from modelmill.serve.grpc.methods import SERVICE
from modelmill.serve.grpc_server import GrpcServer
from modelmill.serve.http2 import frames, hpack
from modelmill.serve.protocols import oip_grpc
from modelmill.serve.protocols.wire import generate, health, inference
from modelmill.signature import Signature, Tensor
from tests.unit.serve.relay import Relay
from tests.unit.serve.support import MIXED, Running, double, mixed, running
from tests.unit.serve.test_batching import POISON, Gate, poisoned
from tests.unit.serve.test_http import eventually
from tests.unit.serve.test_http2 import Client
from tests.unit.serve.test_operations import certificate

Code = grpc.StatusCode
ROW = [1.0, 2.0, 3.0]
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


class Grpc:
    """A server and its clients: tritonclient, and the stubs below it for what tritonclient cannot send."""

    def __init__(self, handle: Running) -> None:
        self.handle = handle
        self.port = handle.server.grpc_port
        self.address = f"127.0.0.1:{self.port}"
        self.client = triton.InferenceServerClient(self.address)
        self.channel = grpc.insecure_channel(self.address)
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    def close(self) -> None:
        self.client.close()
        self.channel.close()

    @property
    def in_flight(self) -> int:
        load: dict[str, int] = self.handle.admin("/load")[1]
        return load["inflight"]

    def drain(self) -> int:
        """How many were left unanswered."""
        return self.handle.on_loop(self.handle.server.drain(propagation_seconds=0))

    def codes(self) -> dict[str, int]:
        """gRPC's, of all requests; HTTP's are numbers."""
        return {code: count for code, count in self.handle.requests_by_code().items() if not code.isdigit()}


@contextmanager
def serving(module: Callable[..., Any] = double, **options: Any) -> Iterator[Grpc]:
    with running(module, **options) as handle:
        found = Grpc(handle)
        try:
            yield found
        finally:
            found.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Grpc]:
    with serving(max_request_bytes=100_000) as found:
        yield found


@pytest.fixture(scope="module")
def two() -> Iterator[Grpc]:
    with serving(mixed, signature=MIXED) as found:
        yield found


def x(*rows: list[float]) -> triton.InferInput:
    array = np.array(rows or [ROW], np.float32)
    tensor = triton.InferInput("x", list(array.shape), "FP32")
    return tensor.set_data_from_numpy(array)


# --- health and metadata


def test_the_reference_client_finds_its_way(server: Grpc) -> None:
    client = server.client
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("m")
    assert client.is_model_ready("m", "3")
    assert not client.is_model_ready("m", "9")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata().name == "modelmill"
    described = client.get_model_metadata("m", "3", as_json=True)
    tensor = {"datatype": "FP32", "shape": ["-1", "3"]}
    assert described == {
        "name": "m",
        "versions": ["3"],
        "platform": "pytorch",
        "inputs": [{"name": "x", **tensor}],
        "outputs": [{"name": "y", **tensor}],
    }
    config = client.get_model_config("m").config
    assert (config.max_batch_size, config.input[0].data_type, list(config.output[0].dims)) == (32, 11, [3])


def test_the_repository_is_the_one_model(server: Grpc) -> None:
    for entries in (server.client.get_model_repository_index().models, server.stub.RepositoryIndex(_index(ready=True)).models):
        assert [(entry.name, entry.version, entry.state) for entry in entries] == [("m", "3", "READY")]
    server.client.load_model("m")
    with pytest.raises(triton.InferenceServerException, match="with a configuration"):
        server.client.load_model("m", config="{}")
    with pytest.raises(triton.InferenceServerException, match="this pod serves 'm' only"):
        server.client.load_model("other")
    with pytest.raises(triton.InferenceServerException, match="cannot be unloaded"):
        server.client.unload_model("m")


def _index(**fields: Any) -> Any:
    return service_pb2.RepositoryIndexRequest(**fields)


def test_statistics_count_rows_and_executions() -> None:
    with serving() as server:
        before = server.client.get_inference_statistics().model_stats[0]
        server.client.infer("m", [x(ROW, ROW)])
        after = server.client.get_inference_statistics("m", "3").model_stats[0]
        assert after.inference_count - before.inference_count == 2
        assert after.execution_count - before.execution_count == 1
        assert after.inference_stats.queue.count - before.inference_stats.queue.count == 1
        assert after.inference_stats.compute_infer.ns > before.inference_stats.compute_infer.ns
        assert after.inference_stats.success.count - before.inference_stats.success.count == 1
        assert [(batch.batch_size, batch.compute_infer.count) for batch in after.batch_stats] == [(2, 1)]


def test_before_the_model_is_loaded_health_says_so_and_requests_are_told_to_come_back() -> None:
    with serving(load=False) as server:
        watched = iter(server.health.Watch(health_pb2.HealthCheckRequest(), timeout=30))
        assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert server.client.is_server_live()
        assert not server.client.is_server_ready()
        assert not server.client.is_model_ready("m")
        assert server.client.get_model_repository_index().models[0].state == "LOADING"
        assert not server.stub.RepositoryIndex(_index(ready=True)).models
        with pytest.raises(grpc.RpcError) as refused:
            server.stub.ModelInfer(_request())
        assert (refused.value.code(), "still loading" in _details(refused)) == (Code.UNAVAILABLE, True)
        assert _trailing(refused)["retry-after"] == "1"
        server.handle.on_loop(server.handle.server.load())
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        assert server.client.is_server_ready()


def test_standard_health_checks_are_answered(server: Grpc) -> None:
    for service in ("", SERVICE):
        answer = server.health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as refused:
        server.health.Check(health_pb2.HealthCheckRequest(service="other"))
    assert refused.value.code() is Code.NOT_FOUND
    unknown = server.health.Watch(health_pb2.HealthCheckRequest(service="other"))
    assert next(iter(unknown)).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    unknown.cancel()


# --- tensors

DATATYPES = ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BF16")
TYPED = {
    "BOOL": "bool_contents",
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}


@pytest.fixture(scope="module")
def every_datatype() -> Iterator[Grpc]:
    tensors = tuple(Tensor(name=name, datatype=name, shape=(-1, 2)) for name in DATATYPES)
    outputs = tuple(Tensor(name=f"{t.name}-out", datatype=t.datatype, shape=t.shape) for t in tensors)
    with serving(lambda *values: values, signature=Signature(inputs=tensors, outputs=outputs)) as found:
        yield found


def values(name: str) -> Any:
    dtype = np.dtype(ml_dtypes.bfloat16 if name == "BF16" else triton.triton_to_np_dtype(name))
    if name in ("BOOL", "FP16", "BF16"):
        return np.array([[0, 1], [1, 1]]).astype(dtype)
    bounds = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
    return np.array([[bounds.min, bounds.max], [0, 1]], dtype)


def test_every_datatype_passes_unchanged_as_raw_bytes(every_datatype: Grpc) -> None:
    inputs = []
    for name in DATATYPES:
        inputs.append(triton.InferInput(name, [2, 2], name).set_data_from_numpy(values(name)))
    result = every_datatype.client.infer("m", inputs, request_id="7")
    assert result.get_response().id == "7"
    for name in DATATYPES:
        assert np.array_equal(result.as_numpy(f"{name}-out"), values(name)), name


def test_every_datatype_that_has_typed_contents_is_taken_from_them() -> None:
    tensors = tuple(Tensor(name=name, datatype=name, shape=(-1, 2)) for name in TYPED)
    outputs = tuple(Tensor(name=f"{t.name}-out", datatype=t.datatype, shape=t.shape) for t in tensors)
    with serving(lambda *given: given, signature=Signature(inputs=tensors, outputs=outputs)) as server:
        inputs = [_typed(name, name, [2, 2], **{TYPED[name]: values(name).ravel().tolist()}) for name in TYPED]
        result = triton.InferResult(server.stub.ModelInfer(service_pb2.ModelInferRequest(model_name="m", inputs=inputs)))
        for name in TYPED:
            assert np.array_equal(result.as_numpy(f"{name}-out"), values(name)), name


def test_only_the_outputs_that_were_asked_for_come_back_in_that_order(two: Grpc) -> None:
    inputs = [
        triton.InferInput("k", [1], "INT64").set_data_from_numpy(np.array([5])),
        triton.InferInput("a", [1, 2], "FP32").set_data_from_numpy(np.array([[1, 2]], np.float32)),
    ]
    result = two.client.infer("m", inputs, outputs=[triton.InferRequestedOutput("next")])
    assert [output.name for output in result.get_response().outputs] == ["next"]
    both = two.client.infer("m", inputs, outputs=[triton.InferRequestedOutput(name) for name in ("next", "sum")])
    assert [output.name for output in both.get_response().outputs] == ["next", "sum"]
    assert (both.as_numpy("next").tolist(), both.as_numpy("sum").tolist()) == ([6], [15.0])


def test_a_large_tensor_passes_unchanged_and_compressed_too() -> None:
    array = np.random.default_rng(0).standard_normal((200_000, 3)).astype(np.float32)
    with serving(batcher_rows=len(array)) as server:
        for compression in (None, "gzip", "deflate"):
            tensor = triton.InferInput("x", list(array.shape), "FP32").set_data_from_numpy(array)
            answer = server.client.infer("m", [tensor], compression_algorithm=compression)
            assert np.array_equal(answer.as_numpy("y"), array * 2)


# --- refusals


def _raw(content: bytes = np.array(ROW, np.float32).tobytes(), *more: bytes) -> dict[str, Any]:
    return {"raw_input_contents": [content, *more]}


def _typed(name: str = "x", datatype: str = "FP32", shape: Any = (1, 3), /, **contents: Any) -> Any:
    return service_pb2.ModelInferRequest.InferInputTensor(
        name=name, datatype=datatype, shape=shape, contents=service_pb2.InferTensorContents(**contents)
    )


def _request(*inputs: Any, **fields: Any) -> Any:
    usual = [service_pb2.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 3])]
    if not inputs and "raw_input_contents" not in fields:
        fields |= _raw()
    return service_pb2.ModelInferRequest(**{"model_name": "m", "inputs": inputs or usual, **fields})


def _parameter(**choice: Any) -> dict[str, Any]:
    (name, value) = choice.popitem()
    kind = "string_param" if isinstance(value, str) else "int64_param"
    return {name: service_pb2.InferParameter(**{kind: value})}


def _shared() -> Any:
    tensor = service_pb2.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 3])
    tensor.parameters["shared_memory_region"].string_param = "r"
    return tensor


FLOATS: dict[str, Any] = {"fp32_contents": ROW}
OUTPUT = service_pb2.ModelInferRequest.InferRequestedOutputTensor
INVALID = Code.INVALID_ARGUMENT
REFUSED: dict[str, tuple[Any, grpc.StatusCode, tuple[str, ...]]] = {
    "unknown model": (_request(model_name="other"), Code.NOT_FOUND, ("'other'", "'m'")),
    "unknown version": (_request(model_version="9"), Code.NOT_FOUND, ("'9'", "3")),
    "no inputs": (service_pb2.ModelInferRequest(model_name="m"), INVALID, ("'x'", "missing")),
    "unknown input": (_request(_typed("z", **FLOATS)), INVALID, ("'z'", "x")),
    "input twice": (_request(_typed(**FLOATS), _typed(**FLOATS)), INVALID, ("'x'", "twice")),
    "wrong datatype": (_request(_typed("x", "INT64", int64_contents=[1, 2, 3])), INVALID, ("'x'", "'INT64'", "FP32")),
    "wrong shape": (_request(_typed("x", "FP32", [1, 2], fp32_contents=[1, 2])), INVALID, ("'x'", "[1, 2]", "[-1, 3]")),
    "negative shape": (_request(_typed("x", "FP32", [-1, 3], **FLOATS)), INVALID, ("'x'", "[-1, 3]")),
    "no rows": (_request(_typed("x", "FP32", [0, 3])), INVALID, ("'x'", "no rows")),
    "no data": (_request(_typed()), INVALID, ("'x'", "0 values", "3")),
    "too few values": (_request(_typed(fp32_contents=[1, 2])), INVALID, ("'x'", "2 values", "[1, 3]", "3")),
    "another field": (_request(_typed(int_contents=[1, 2, 3])), INVALID, ("'x'", "fp32_contents", "int_contents")),
    "too few raw bytes": (_request(**_raw(b"12345678")), INVALID, ("'x'", "8", "[1, 3]", "12")),
    "too many raw bytes": (_request(**_raw(b"x" * 13)), INVALID, ("'x'", "13", "12")),
    "more raw tensors than inputs": (_request(**_raw(b"x" * 12, b"")), INVALID, ("2 raw_input_contents", "1 inputs")),
    "raw and typed": (_request(_typed(**FLOATS), **_raw()), INVALID, ("'x'", "one of them")),
    "unknown output": (_request(outputs=[OUTPUT(name="q")]), INVALID, ("'q'", "y")),
    "classification": (
        _request(outputs=[OUTPUT(name="y", parameters=_parameter(classification=2))]),
        INVALID,
        ("'y'", "'classification'"),
    ),
    "shared memory": (_request(_shared()), INVALID, ("'x'", "'shared_memory_region'")),
    "nonsense priority": (_request(parameters=_parameter(priority="high")), INVALID, ("priority", "'high'")),
    "nonsense timeout": (_request(parameters=_parameter(timeout="soon")), INVALID, ("timeout", "'soon'")),
}


@pytest.mark.parametrize(("request_", "code", "words"), REFUSED.values(), ids=REFUSED)
def test_a_mistake_is_refused_in_words_that_name_it(
    server: Grpc, request_: Any, code: grpc.StatusCode, words: tuple[str, ...]
) -> None:
    for timeout in (None, 30):
        with pytest.raises(grpc.RpcError) as refused:
            server.stub.ModelInfer(request_, timeout=timeout)
        assert refused.value.code() is code
        assert all(word in _details(refused) for word in words), _details(refused)


def test_integers_that_do_not_fit_and_floats_without_typed_contents_are_refused(every_datatype: Grpc) -> None:
    cases: tuple[tuple[str, dict[str, Any], tuple[str, str]], ...] = (
        ("INT8", {"int_contents": [0, 0, 0, -129]}, ("'INT8'", "-129")),
        ("UINT16", {"uint_contents": [0, 0, 0, 65536]}, ("'UINT16'", "65536")),
        ("BF16", {"fp32_contents": [0, 0, 0, 0]}, ("'BF16'", "raw_input_contents")),
    )
    for name, contents, words in cases:
        with pytest.raises(grpc.RpcError) as refused:
            every_datatype.stub.ModelInfer(_request(_typed(name, name, [2, 2], **contents)))
        assert refused.value.code() is INVALID
        assert all(word in _details(refused) for word in words), _details(refused)


def test_bytes_that_are_no_message_are_refused(server: Grpc) -> None:
    for method in ("ModelInfer", "ModelMetadata"):
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = server.channel.unary_unary(f"/{SERVICE}/{method}")
        with pytest.raises(grpc.RpcError) as refused:
            call(b"\xff\xff")
        assert (refused.value.code(), "not an inference.Model" in _details(refused)) == (INVALID, True)


def test_a_message_beyond_the_limit_is_refused_and_the_connection_lives(server: Grpc) -> None:
    with pytest.raises(triton.InferenceServerException, match="larger than 100000 bytes") as refused:
        server.client.infer("m", [x(*[ROW] * 10_000)])
    assert refused.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
    assert server.client.infer("m", [x()]).as_numpy("y").tolist() == [[2, 4, 6]]


def test_a_model_that_fails_is_an_internal_error_for_its_client_alone() -> None:
    with serving(poisoned) as server, ThreadPoolExecutor(8) as clients:
        rows = [[POISON if i == 3 else float(i), 0.0, 0.0] for i in range(8)]
        outcomes = list(clients.map(lambda row: _outcome(server, row), rows))
        assert outcomes[3].status() == "StatusCode.INTERNAL"
        assert "ValueError: a value the model cannot stand" in outcomes[3].message()
        assert [outcome.as_numpy("y")[0, 0] for i, outcome in enumerate(outcomes) if i != 3] == [0, 2, 4, 8, 10, 12, 14]


def _details(refused: pytest.ExceptionInfo[grpc.RpcError]) -> str:
    return refused.value.details() or ""


def _trailing(refused: pytest.ExceptionInfo[grpc.RpcError]) -> dict[str, Any]:
    return {item.key: item.value for item in refused.value.trailing_metadata() or ()}


def _outcome(server: Grpc, row: list[float], **options: Any) -> Any:
    try:
        return server.client.infer("m", [x(row)], **options)
    except triton.InferenceServerException as error:
        return error


def test_a_bug_of_the_server_is_logged_and_not_told(
    server: Grpc, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: object, **options: object) -> None:
        raise RuntimeError("the password is swordfish")

    monkeypatch.setattr(server.handle.server.inference, "submit", broken)
    with pytest.raises(triton.InferenceServerException, match="internal error: RuntimeError") as refused:
        server.client.infer("m", [x()])
    assert refused.value.status() == "StatusCode.INTERNAL"
    assert "swordfish" not in refused.value.message()
    assert "swordfish" in caplog.text


# --- what tritonclient never sends


def call(method: str = "ModelInfer", **more: str) -> bytes:
    """The headers of a call, on stream 1; names in `more` have _ for -."""
    fields = {":method": "POST", ":scheme": "http", ":path": f"/{SERVICE}/{method}", "content-type": "application/grpc"}
    fields |= {name.replace("_", "-"): value for name, value in more.items()}
    return frames.frame(frames.HEADERS, frames.END_HEADERS, 1, hpack.encode(fields.items()))


def message(content: bytes, *, flags: int = frames.END_STREAM, compressed: bool = False) -> bytes:
    return frames.frame(frames.DATA, flags, 1, bytes((compressed,)) + len(content).to_bytes(4, "big") + content)


INFER = _request().SerializeToString()
BOMB = gzip.compress(bytes(10 << 20))
OUT_OF_ORDER: dict[str, tuple[bytes, int, str]] = {
    "no such method": (call("ModelForget") + message(b""), 12, "'/inference.GRPCInferenceService/ModelForget'"),
    "no message": (call() + frames.frame(frames.DATA, frames.END_STREAM, 1, b""), 3, "without a complete message"),
    "half a message": (call() + frames.frame(frames.DATA, frames.END_STREAM, 1, b"\0\0\0\0\x09ab"), 3, "complete message"),
    "two messages": (call() + message(INFER, flags=0) + message(INFER), 3, "one message"),
    "nonsense deadline": (call(grpc_timeout="soon") + message(INFER), 3, "grpc-timeout 'soon'"),
    "unknown encoding": (call(grpc_encoding="br") + message(INFER, compressed=True), 12, "'br'"),
    "compressed without encoding": (call() + message(INFER, compressed=True), 12, "'identity'"),
    "not what the encoding says": (call(grpc_encoding="gzip") + message(INFER, compressed=True), 3, "gzip"),
    "a bomb": (call(grpc_encoding="gzip") + message(BOMB, compressed=True), 8, "larger than 100000 bytes"),
    "a size beyond the limit": (call() + frames.frame(frames.DATA, 0, 1, b"\0\xff\0\0\0"), 8, "larger than 100000 bytes"),
    "a stream that ends within a message": (
        call("ModelStreamInfer") + frames.frame(frames.DATA, frames.END_STREAM, 1, b"\0\0\0\0\x09ab"),
        3,
        "within a message",
    ),
    "a bomb in a stream": (call("ModelStreamInfer", grpc_encoding="gzip") + message(BOMB, compressed=True), 8, "larger"),
}


LARGE = b"\x3a\xa0\x8d\x06" + bytes(100_000)


@pytest.mark.parametrize(
    "content",
    [LARGE[:-1], LARGE + b"\xff", LARGE + b"\xff" * 11, LARGE + b"\x0c", LARGE + b"\x0d\1", LARGE + b"\x0a\x05ab"],
    ids=["cut", "half a tag", "an endless tag", "no such kind", "half a number", "half a text"],
)
def test_a_large_message_that_is_none_is_refused(content: bytes) -> None:
    with pytest.raises(BadRequest, match=r"not an inference\.ModelInferRequest"):
        oip_grpc.parsed(content)


@given(st.lists(st.one_of(st.binary(max_size=300), st.just(70_000)), max_size=4))
def test_a_large_message_is_split_as_protobuf_would(drawn: list[bytes | int]) -> None:
    """`drawn`: bytes, or how many zeros: a failure has to print them."""
    raw = [bytes(one) for one in drawn]
    tensor = _typed("x", "INT64", int64_contents=[-1, 1 << 62])
    request = _request(tensor, id="a", parameters=_parameter(timeout=-5), raw_input_contents=raw)
    content = request.SerializeToString() + b"\x99\x01" + bytes(8) + b"\x9d\x01" + bytes(4) + b"\x92\x01\x02ab" + b"\x58\x05"
    rest, found = oip_grpc.split(memoryview(content))
    assert [bytes(piece) for piece in found] == raw
    request.ClearField("raw_input_contents")
    parsed = service_pb2.ModelInferRequest.FromString(rest)
    parsed.DiscardUnknownFields()
    assert parsed == request


@pytest.mark.parametrize(("sent", "status", "words"), OUT_OF_ORDER.values(), ids=OUT_OF_ORDER)
def test_a_call_that_breaks_grpcs_rules_is_refused_in_words(server: Grpc, sent: bytes, status: int, words: str) -> None:
    with Client(server) as client:
        client.send(sent)
        fields = _last_headers(client)
        assert (fields["grpc-status"], words in unquote(fields["grpc-message"])) == (str(status), True), fields


def test_a_request_that_is_not_grpc_is_refused_by_http(server: Grpc) -> None:
    with Client(server) as client:
        client.send(call(content_type="application/json"))
        assert _last_headers(client)[":status"] == "415"


def _last_headers(client: Client) -> dict[str, str]:
    decoder = hpack.Decoder(max_bytes=10_000)
    while True:
        _, flags, _, payload = client.until(frames.HEADERS)
        fields = dict(decoder.decode(payload))
        if flags & frames.END_STREAM:
            return fields


def test_a_message_may_come_in_any_pieces(server: Grpc) -> None:
    framed = message(INFER)[frames.HEAD_BYTES :]
    with Client(server) as client:
        client.send(call(), *(frames.frame(frames.DATA, 0, 1, framed[i : i + 1]) for i in range(len(framed))))
        client.send(frames.frame(frames.DATA, frames.END_STREAM, 1, b""))
        assert np.frombuffer(client.answer(1)[-12:], np.float32).tolist() == [2, 4, 6]


def test_a_stream_whose_client_does_not_read_is_not_read_either() -> None:
    with serving() as server, Client(server, greet=b"") as client:
        client.send(frames.PREFACE, frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
        client.send(frames.number(frames.WINDOW_UPDATE, 0, 1 << 20), call("ModelStreamInfer"))
        client.send(*[message(INFER, flags=0)] * 1000)
        assert eventually(lambda: server.codes() != {})
        time.sleep(0.1)
        assert server.codes()["OK"] <= 64
        client.send(frames.settings({frames.INITIAL_WINDOW_SIZE: frames.LARGEST}), message(INFER))
        assert client.answer(1).count(np.array([2, 4, 6], np.float32).tobytes()) == 1001


# --- load


def test_a_full_queue_sheds_with_retry_after() -> None:
    gate = Gate()
    with serving(gate, queue_limit=1) as server, ThreadPoolExecutor(2) as clients:
        first = clients.submit(_outcome, server, [1, 0, 0])
        assert eventually(lambda: server.handle.metric("queue_depth") == 0 and server.in_flight == 1)
        second = clients.submit(_outcome, server, [2, 0, 0])
        assert eventually(lambda: server.handle.metric("queue_depth") == 1)
        with pytest.raises(grpc.RpcError) as refused:
            server.stub.ModelInfer(_request())
        assert refused.value.code() is Code.RESOURCE_EXHAUSTED
        assert _trailing(refused)["retry-after"] == "1"
        gate.open.set()
        assert [future.result().as_numpy("y")[0, 0] for future in (first, second)] == [2, 4]
        assert server.codes() == {"OK": 2, "RESOURCE_EXHAUSTED": 1}


def test_a_cancelled_request_leaves_the_queue_unseen_by_the_model() -> None:
    gate = Gate()
    with serving(gate) as server, ThreadPoolExecutor(1) as clients:
        first = clients.submit(_outcome, server, [1, 0, 0])
        assert eventually(lambda: server.in_flight == 1)
        ended = threading.Event()
        call = server.client.async_infer("m", [x([2, 0, 0])], callback=lambda result, error: ended.set())
        assert eventually(lambda: server.handle.metric("queue_depth") == 1)
        call.cancel()
        assert eventually(lambda: server.handle.metric("queue_depth") == 0)
        assert ended.wait(10)
        gate.open.set()
        assert first.result().as_numpy("y")[0, 0] == 2
        assert gate.batches == [[1.0]]
        assert server.handle.metric("cancelled_total") == 1
        assert eventually(lambda: server.codes() == {"OK": 1, "CANCELLED": 1})


def test_a_request_whose_deadline_passes_leaves_the_queue_unseen_by_the_model() -> None:
    gate = Gate()
    with serving(gate) as server, ThreadPoolExecutor(1) as clients:
        first = clients.submit(_outcome, server, [1, 0, 0])
        assert eventually(lambda: server.in_flight == 1)
        for options in ({"client_timeout": 0.2}, {"timeout": 200_000}, {"client_timeout": 0.2, "timeout": 10_000_000}):
            late = _outcome(server, [2, 0, 0], **options)
            assert late.status() == "StatusCode.DEADLINE_EXCEEDED"
            assert eventually(lambda: server.handle.metric("queue_depth") == 0)
        gate.open.set()
        assert first.result().as_numpy("y")[0, 0] == 2
        assert gate.batches == [[1.0]]
        assert eventually(lambda: server.handle.metric("expired_total") == 3)
        assert server.codes() == {"OK": 1, "DEADLINE_EXCEEDED": 3}


def test_priority_goes_first() -> None:
    gate = Gate()
    with serving(gate, batcher_rows=1) as server, ThreadPoolExecutor(3) as clients:
        clients.submit(_outcome, server, [1, 0, 0])
        assert eventually(lambda: server.in_flight == 1)
        clients.submit(_outcome, server, [2, 0, 0])
        assert eventually(lambda: server.handle.metric("queue_depth") == 1)
        last = clients.submit(_outcome, server, [3, 0, 0], priority=1)
        assert eventually(lambda: server.handle.metric("queue_depth") == 2)
        gate.open.set()
        assert last.result().as_numpy("y")[0, 0] == 6
        assert eventually(lambda: gate.batches == [[1.0], [3.0], [2.0]])


# --- streams


class Streamed:
    """The reference client's stream, and what came back."""

    def __init__(self, server: Grpc, **options: Any) -> None:
        self.answers: list[Any] = []
        self.client = triton.InferenceServerClient(server.address)
        self.client.start_stream(lambda result, error: self.answers.append(error or result), **options)

    def send(self, value: float, *, model: str = "m", **options: Any) -> None:
        self.client.async_stream_infer(model, [x([value, 0, 0])], request_id=str(value), **options)

    def __enter__(self) -> "Streamed":
        return self

    def __exit__(self, *reason: object) -> None:
        self.client.stop_stream()
        self.client.close()


def test_a_stream_is_answered_in_order_and_an_error_does_not_end_it(server: Grpc) -> None:
    with Streamed(server) as stream:
        for i in range(100):
            stream.send(i, model="other" if i == 50 else "m")
    assert len(stream.answers) == 100
    assert "'other' does not exist here" in stream.answers.pop(50).message()
    sent = [float(i) for i in range(100) if i != 50]
    assert [answer.as_numpy("y")[0, 0] for answer in stream.answers] == [2 * value for value in sent]
    response = stream.answers[0].get_response()
    assert (response.id, response.parameters["triton_final_response"].bool_param) == ("0", True)


def test_an_error_in_a_stream_names_its_request(server: Grpc) -> None:
    answers = server.stub.ModelStreamInfer(iter([_request(id="a", model_name="other"), _request(id="b")]))
    (first, second) = list(answers)
    assert ("'other'" in first.error_message, first.infer_response.id) == (True, "a")
    assert (second.error_message, second.infer_response.id) == ("", "b")


def test_requests_of_one_stream_run_together_but_do_not_fill_the_queue() -> None:
    gate = Gate()
    with serving(gate, batcher_rows=4) as server:
        with Streamed(server) as stream:
            for i in range(1, 51):
                stream.send(i)
            assert eventually(lambda: server.in_flight == 8)
            assert not eventually(lambda: server.in_flight > 8, seconds=0.3)
            gate.open.set()
        assert [answer.as_numpy("y")[0, 0] for answer in stream.answers] == [2 * i for i in range(1, 51)]
        assert len(gate.batches) < 25
        assert server.codes() == {"OK": 50}


def test_a_broken_stream_takes_its_requests_with_it() -> None:
    gate = Gate()
    with serving(gate, batcher_rows=1) as server:
        stream = Streamed(server)
        stream.send(1)
        assert eventually(lambda: server.in_flight == 1)
        stream.send(2)
        assert eventually(lambda: server.handle.metric("queue_depth") == 1)
        stream.client.stop_stream(cancel_requests=True)
        assert eventually(lambda: server.in_flight == 0)
        gate.open.set()
        assert server.codes() == {"CANCELLED": 2}
        assert server.client.infer("m", [x([3, 0, 0])]).as_numpy("y")[0, 0] == 6
        assert gate.batches == [[1.0], [3.0]]
        stream.client.close()


def test_the_reference_client_for_asyncio_infers_and_streams(server: Grpc) -> None:
    async def use() -> tuple[list[float], list[float]]:
        async with aio.InferenceServerClient(server.address) as client:
            assert await client.is_model_ready("m")
            answers = await asyncio.gather(*(client.infer("m", [x([i, 0, 0])]) for i in range(20)))

            async def requests() -> Any:
                for i in range(20):
                    yield {"model_name": "m", "inputs": [x([i, 0, 0])]}

            streamed = [result async for result, error in client.stream_infer(requests()) if error is None]
            return [a.as_numpy("y")[0, 0] for a in answers], [a.as_numpy("y")[0, 0] for a in streamed]

    expected = [2.0 * i for i in range(20)]
    assert asyncio.run(use()) == (expected, expected)


# --- operations


def test_an_api_key_is_needed_for_everything_but_health(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    with serving(api_key_file=str(tmp_path / "key")) as server:
        assert server.client.is_server_live()
        assert server.client.is_server_ready()
        assert server.health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
        for headers in (None, {"authorization": "Bearer wrong"}, {"x-api-key": ""}):
            for call in (server.client.get_server_metadata, lambda headers: server.client.infer("m", [x()], headers=headers)):
                with pytest.raises(triton.InferenceServerException, match="send the API key") as refused:
                    call(headers=headers)
                assert refused.value.status() == "StatusCode.UNAUTHENTICATED"
        with Streamed(server) as refused_stream:
            assert eventually(lambda: len(refused_stream.answers) == 1)
        assert refused_stream.answers[0].status() == "StatusCode.UNAUTHENTICATED"
        for headers in ({"authorization": "Bearer secret"}, {"x-api-key": "secret"}):
            assert server.client.infer("m", [x()], headers=headers).as_numpy("y")[0, 0] == 2
            with Streamed(server, headers=headers) as stream:
                stream.send(1)
            assert stream.answers[0].as_numpy("y")[0, 0] == 2
        assert server.codes() == {"OK": 7, "UNAUTHENTICATED": 7}


def test_draining_under_load_fails_nobody() -> None:
    def slow(rows: torch.Tensor) -> torch.Tensor:
        time.sleep(0.005)
        return rows * 2

    stop = threading.Event()
    with serving(slow) as old, serving(slow) as new, Relay(old.port) as relay, ThreadPoolExecutor(8) as clients:

        def load() -> tuple[int, list[Any]]:
            count, failures = 0, []
            client = triton.InferenceServerClient(f"127.0.0.1:{relay.port}", channel_args=OWN_CONNECTION)
            while not stop.is_set():
                try:
                    client.infer("m", [x()])
                    count += 1
                except triton.InferenceServerException as error:
                    failures.append(error)
            client.close()
            return count, failures

        loads = [clients.submit(load) for _ in range(8)]
        assert eventually(lambda: old.handle.metric("inferences_total") > 50)
        relay.target = new.port
        assert old.drain() == 0
        assert eventually(lambda: new.handle.metric("inferences_total") > 50)
        stop.set()
        counts, failures = zip(*(load.result(30) for load in loads), strict=True)
        assert [str(failure) for many in failures for failure in many] == []
        assert sum(counts) == old.codes()["OK"] + new.codes()["OK"]


def test_draining_answers_what_a_stream_has_sent_and_asks_for_a_new_one() -> None:
    gate = Gate()
    with serving(gate) as server, Streamed(server) as stream, ThreadPoolExecutor(1) as background:
        watched = iter(server.health.Watch(health_pb2.HealthCheckRequest()))
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        for i in range(1, 4):
            stream.send(i)
        assert eventually(lambda: server.in_flight == 3)
        left = background.submit(server.drain)
        assert eventually(lambda: server.handle.admin("/readyz")[0] == 503)
        gate.open.set()
        assert eventually(lambda: len(stream.answers) == 4)
        assert [answer.as_numpy("y")[0, 0] for answer in stream.answers[:3]] == [2, 4, 6]
        assert stream.answers[3].status() == "StatusCode.UNAVAILABLE"
        with pytest.raises(grpc.RpcError) as ended:
            list(watched)
        assert ended.value.code() is Code.UNAVAILABLE
        assert left.result() == 0


def test_tls_serves_and_takes_a_new_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelmill.serve.grpc_server.CERTIFICATE_LOOK_SECONDS", 0.1)
    files = Tls(certificate_file=str(tmp_path / "tls.crt"), key_file=str(tmp_path / "tls.key"))
    certificate(files, name="localhost")
    with serving(tls=files) as server:
        assert _greets(server.port, files)
        certificate(files, name="localhost")
        assert eventually(lambda: _greets(server.port, files))


def _greets(port: int, files: Tls) -> bool:
    trusted = grpc.ssl_channel_credentials(Path(files.certificate_file).read_bytes())
    client = triton.InferenceServerClient(f"localhost:{port}", creds=trusted, channel_args=OWN_CONNECTION)
    try:
        return bool(client.infer("m", [x()]).as_numpy("y")[0, 0] == 2)
    except triton.InferenceServerException as error:
        assert "CERTIFICATE_VERIFY_FAILED" in error.message()
        return False
    finally:
        client.close()


def test_a_port_that_is_taken_is_an_error(server: Grpc) -> None:
    inner = server.handle.server
    another = GrpcServer(
        inner.inference, service=inner.service, keys=None, concurrency=Concurrency(time.monotonic), metrics=inner.metrics
    )
    with pytest.raises(OSError, match="in use"):
        server.handle.on_loop(another.start(("127.0.0.1",), port=server.port))


# --- the protocol's text


def test_names_numbers_and_types_are_those_of_the_reference_client() -> None:
    theirs, ours = service_pb2.DESCRIPTOR, inference.DESCRIPTOR
    pool = theirs.pool
    health_messages = health.DESCRIPTOR.message_types_by_name.values()
    for message in _all([*ours.message_types_by_name.values(), *health_messages]):
        reference = pool.FindMessageTypeByName(message.full_name)
        for field in message.fields:
            assert _kind(field) == _kind(reference.fields_by_name[field.name]), field.full_name
    for name, number in ours.enum_types_by_name["DataType"].values_by_name.items():
        assert pool.FindEnumTypeByName("inference.DataType").values_by_name[name].number == number.number
    methods = theirs.services_by_name["GRPCInferenceService"].methods_by_name
    for method in ours.services_by_name["GRPCInferenceService"].methods:
        assert _shape(method) == _shape(methods[method.name]), method.full_name


def _all(descriptors: Any) -> Iterator[Any]:
    for descriptor in descriptors:
        yield descriptor
        yield from _all(descriptor.nested_types)


def _kind(field: Any) -> tuple[Any, ...]:
    inner = field.message_type or field.enum_type
    return field.number, field.type, field.is_repeated, inner and inner.full_name


def _shape(method: Any) -> tuple[Any, ...]:
    return method.input_type.full_name, method.output_type.full_name, method.client_streaming, method.server_streaming


def test_what_is_generated_is_up_to_date(tmp_path: Path) -> None:
    generate.generate(tmp_path)
    for name in (generate.DESCRIPTORS, *(f"{file}.pyi" for file in generate.FILES)):
        assert (tmp_path / name).read_bytes() == (generate.FOLDER / name).read_bytes(), f"{name}: run `make proto`"
