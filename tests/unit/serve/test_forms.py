"""Requests that differ from an earlier one in their raw tensors only are not checked anew; no client can tell."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from modelmill.serve.protocols import forms
from modelmill.signature import Signature, Tensor
from tests.unit.serve.support import MIXED, Running, mixed, running
from tests.unit.serve.test_grpc import Grpc, serving

PATH = "/v2/models/m/infer"


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A request of a few kinds, so that most come twice."""

    rows: int
    columns: int
    first: int
    swapped: bool = False
    identity: str = ""
    missing: int = 0
    """Bytes that are not sent."""
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def a(self) -> Any:
        return np.arange(self.first, self.first + self.rows * self.columns, dtype=np.float32).reshape(self.rows, self.columns)

    @property
    def k(self) -> Any:
        return np.arange(self.first, self.first + self.rows, dtype=np.int64)

    @property
    def tensors(self) -> list[tuple[str, str, Any]]:
        both = [("a", "FP32", self.a), ("k", "INT64", self.k)]
        return both[::-1] if self.swapped else both

    def check(self, total: Any, following: Any) -> None:
        assert np.array_equal(np.asarray(total), self.a.sum(axis=1) * self.k)
        assert np.array_equal(np.asarray(following), self.k + 1)


REQUESTS = st.builds(
    Sent,
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    first=st.integers(0, 9),
    swapped=st.booleans(),
    identity=st.sampled_from(["", "", "", "seven"]),
    missing=st.sampled_from([0, 0, 0, 0, 1, 8]),
    parameters=st.sampled_from([{}, {"priority": 2}]),
)


@pytest.fixture(scope="module")
def http() -> Iterator[Running]:
    with running(mixed, signature=MIXED) as found:
        yield found


@pytest.fixture(scope="module")
def over_grpc() -> Iterator[Grpc]:
    with serving(mixed, signature=MIXED) as found:
        yield found


def over_http(server: Running, sent: Sent, *, raw_answer: bool = True) -> tuple[int, dict[str, Any], bytes]:
    """Status, the answer's JSON header, and its tensors."""
    given = [
        {"name": name, "datatype": datatype, "shape": list(array.shape), "parameters": {"binary_data_size": array.nbytes}}
        for name, datatype, array in sent.tensors
    ]
    content = {"inputs": given, "parameters": {"binary_data_output": raw_answer, **sent.parameters}}
    header = json.dumps(content | ({"id": sent.identity} if sent.identity else {})).encode()
    body = header + b"".join(array.tobytes() for *_, array in sent.tensors)
    head = {"Inference-Header-Content-Length": str(len(header))}
    status, answer, told = server.exchange("POST", PATH, body[: len(body) - sent.missing], headers=head)
    length = int(told.get("inference-header-content-length", len(answer)))
    return status, json.loads(answer[:length]), answer[length:]


@settings(max_examples=30, deadline=None)
@given(many=st.lists(REQUESTS, min_size=2, max_size=8), raw_answer=st.booleans())
def test_http_answers_each_as_if_it_were_the_first(http: Running, many: list[Sent], raw_answer: bool) -> None:
    for sent in many:
        status, header, tensors = over_http(http, sent, raw_answer=raw_answer)
        assert status == (400 if sent.missing else 200)
        if sent.missing:
            assert "bytes" in header["error"]
            continue
        assert header.get("id", "") == sent.identity
        if raw_answer:
            sent.check(np.frombuffer(tensors[: 4 * sent.rows], np.float32), np.frombuffer(tensors[4 * sent.rows :], np.int64))
        else:
            sent.check(*(output["data"] for output in header["outputs"]))


@settings(max_examples=30, deadline=None)
@given(many=st.lists(REQUESTS, min_size=2, max_size=8), timeout=st.sampled_from([None, 30.0]))
def test_grpc_answers_each_as_if_it_were_the_first(over_grpc: Grpc, many: list[Sent], timeout: float | None) -> None:
    for sent in many:
        request = service_pb2.ModelInferRequest(model_name="m", id=sent.identity)
        for name, value in sent.parameters.items():
            request.parameters[name].int64_param = value
        for name, datatype, array in sent.tensors:
            request.inputs.add(name=name, datatype=datatype, shape=array.shape)
            request.raw_input_contents.append(array.tobytes())
        last = request.raw_input_contents.pop()
        request.raw_input_contents.append(last[: len(last) - sent.missing])
        if sent.missing:
            with pytest.raises(grpc.RpcError, match="raw bytes"):
                over_grpc.stub.ModelInfer(request, timeout=timeout)
            continue
        answer = over_grpc.stub.ModelInfer(request, timeout=timeout)
        assert answer.id == sent.identity
        total, following = answer.raw_output_contents
        sent.check(np.frombuffer(total, np.float32), np.frombuffer(following, np.int64))


def test_numbers_in_the_json_beside_raw_tensors_are_read_each_time(http: Running) -> None:
    sent = Sent(rows=2, columns=2, first=1)
    raw = {"name": "a", "datatype": "FP32", "shape": [2, 2], "parameters": {"binary_data_size": 16}}
    for data in ([1, 2], [1, 2], [3, 4]):
        plain = {"name": "k", "datatype": "INT64", "shape": [2], "data": data}
        header = json.dumps({"inputs": [plain, raw]}).encode()
        head = {"Inference-Header-Content-Length": str(len(header))}
        status, content, _ = http.exchange("POST", PATH, header + sent.a.tobytes(), headers=head)
        assert status == 200
        assert json.loads(content)["outputs"][1]["data"] == [value + 1 for value in data]


def test_truth_values_are_made_of_any_bytes_each_time() -> None:
    flags = Signature(
        inputs=(Tensor(name="x", datatype="BOOL", shape=(-1, 2)),), outputs=(Tensor(name="y", datatype="BOOL", shape=(-1, 2)),)
    )
    with serving(lambda x: x, signature=flags) as server:
        for content in (b"\0\1", b"\2\0", b"\7\7"):
            request = service_pb2.ModelInferRequest(model_name="m", raw_input_contents=[content])
            request.inputs.add(name="x", datatype="BOOL", shape=[1, 2])
            assert server.stub.ModelInfer(request).raw_output_contents == [bytes(bool(byte) for byte in content)]


def test_a_client_of_many_forms_does_not_grow_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "MOST_FORMS", 3)
    known: forms.Forms[int, str] = forms.Forms()
    for key in range(10):
        known.learn(key, str(key))
        assert known.get(key) == str(key)
    assert sum(known.get(key) is not None for key in range(10)) <= 3


def test_another_version_is_refused_though_all_else_is_known() -> None:
    with serving(mixed, signature=MIXED) as server:
        request = service_pb2.ModelInferRequest(model_name="m", model_version="3")
        for name, datatype, array in Sent(rows=1, columns=1, first=1).tensors:
            request.inputs.add(name=name, datatype=datatype, shape=array.shape)
            request.raw_input_contents.append(array.tobytes())
        for _ in range(2):
            server.stub.ModelInfer(request)
        request.model_version = "4"
        with pytest.raises(grpc.RpcError, match="no version '4'"):
            server.stub.ModelInfer(request)
