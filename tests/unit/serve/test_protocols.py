"""V1 and Open Inference Protocol v2 as clients speak them: answers, binary tensors, and every refusal in words."""

import json
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as triton

from modelmill.signature import Signature, Tensor
from tests.unit.serve.curl import VERSIONS
from tests.unit.serve.support import MIXED, Running, mixed, running

ROW = [1.0, 2.0, 3.0]
INFER = "/v2/models/m/infer"
BINARY = "Inference-Header-Content-Length"


@pytest.fixture(scope="module", params=VERSIONS)
def server(request: pytest.FixtureRequest) -> Iterator[Running]:
    with running(max_request_bytes=100_000) as handle:
        handle.curl = request.param
        yield handle


@pytest.fixture(scope="module", params=VERSIONS)
def two(request: pytest.FixtureRequest) -> Iterator[Running]:
    with running(mixed, signature=MIXED) as handle:
        handle.curl = request.param
        yield handle


def x(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": ROW, **changes}


def test_v1_predicts_rows(server: Running) -> None:
    assert server.predict([ROW, [0, 0, 1]]) == (200, {"predictions": [[2.0, 4.0, 6.0], [0.0, 0.0, 2.0]]})


def test_v1_takes_columns_too(server: Running) -> None:
    for inputs in ({"x": [ROW]}, [ROW]):
        assert server.ask("POST", "/v1/models/m:predict", {"inputs": inputs}) == (200, {"predictions": [[2.0, 4.0, 6.0]]})


def test_v1_with_several_tensors_speaks_objects(two: Running) -> None:
    expected = {"predictions": [{"sum": 6.0, "next": 3}, {"sum": 3.0, "next": 2}]}
    rows = [{"a": [1, 2], "k": 2}, {"a": [1, 2], "k": 1}]
    assert two.ask("POST", "/v1/models/m:predict", {"instances": rows}) == (200, expected)
    columns = {"a": [[1, 2], [1, 2]], "k": [2, 1]}
    assert two.ask("POST", "/v1/models/m:predict", {"inputs": columns}) == (200, expected)


def test_v1_lists_its_model(server: Running) -> None:
    status, listed = server.ask("GET", "/v1/models")
    assert (status, listed["models"], listed["data"][0]["id"]) == (200, ["m"], "m")
    assert server.ask("GET", "/v1/models/m") == (200, {"name": "m", "ready": True})


@pytest.mark.parametrize("base", ["/v2/models/m", "/v2/models/m/versions/3"])
def test_v2_describes_its_model(server: Running, base: str) -> None:
    tensor = {"datatype": "FP32", "shape": [-1, 3]}
    described = {
        "name": "m",
        "versions": ["3"],
        "platform": "pytorch",
        "inputs": [{"name": "x", **tensor}],
        "outputs": [{"name": "y", **tensor}],
    }
    assert server.ask("GET", base) == (200, described)
    assert server.ask("GET", f"{base}/ready") == (200, {"name": "m", "ready": True})


def test_v2_describes_itself_and_is_healthy(server: Running) -> None:
    status, about = server.ask("GET", "/v2")
    assert (status, about["name"], "binary_tensor_data" in about["extensions"]) == (200, "modelmill", True)
    for state in ("live", "ready"):
        assert server.ask("GET", f"/v2/health/{state}") == (200, {state: True})


@pytest.mark.parametrize("data", [ROW, [ROW]], ids=["flat", "nested"])
def test_v2_infers_and_echoes_the_id(server: Running, data: Any) -> None:
    status, answer = server.ask("POST", "/v2/models/m/versions/3/infer", {"id": "a-1", "inputs": [x(data=data)]})
    output = {"name": "y", "datatype": "FP32", "shape": [1, 3], "data": [2.0, 4.0, 6.0]}
    assert (status, answer) == (200, {"model_name": "m", "model_version": "3", "id": "a-1", "outputs": [output]})


def test_v2_binary_tensors_go_both_ways(server: Running) -> None:
    values = np.array([ROW, ROW], dtype="<f4")
    tensor = {"name": "x", "shape": [2, 3], "datatype": "FP32", "parameters": {"binary_data_size": values.nbytes}}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    status, content, headers = server.exchange(
        "POST", INFER, header + values.tobytes(), headers={BINARY: str(len(header)), "Content-Type": "application/octet-stream"}
    )
    assert (status, headers["content-type"]) == (200, "application/octet-stream")
    length = int(headers[BINARY.lower()])
    assert json.loads(content[:length])["outputs"][0]["parameters"] == {"binary_data_size": 24}
    assert np.array_equal(np.frombuffer(content[length:], "<f4").reshape(2, 3), values * 2)


def test_an_outputs_own_wish_beats_the_default_for_binary(server: Running) -> None:
    outputs = [{"name": "y", "parameters": {"binary_data": False}}]
    request = {"inputs": [x()], "outputs": outputs, "parameters": {"binary_data_output": True}}
    status, answer = server.ask("POST", INFER, request)
    assert (status, answer["outputs"][0]["data"]) == (200, [2.0, 4.0, 6.0])


def test_only_the_outputs_that_were_asked_for_come_back(two: Running) -> None:
    inputs = [
        {"name": "k", "shape": [1], "datatype": "INT64", "data": [5]},
        {"name": "a", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]},
    ]
    status, answer = two.ask("POST", INFER, {"inputs": inputs, "outputs": [{"name": "next"}]})
    assert status == 200
    assert answer["outputs"] == [{"name": "next", "datatype": "INT64", "shape": [1], "data": [6]}]


PREDICT = "/v1/models/m:predict"
REFUSED: dict[str, tuple[str, Any, int, tuple[str, ...]]] = {
    "no JSON": (PREDICT, b"{nope", 400, ("not JSON",)),
    "no object": (PREDICT, b"[1]", 400, ("must be a JSON object", "list")),
    "no instances": (PREDICT, {"rows": []}, 400, ("instances", "inputs")),
    "instances not a list": (PREDICT, {"instances": "abc"}, 400, ('expected "instances" to be a list',)),
    "no rows": (PREDICT, {"instances": []}, 400, ("'x'",)),
    "v1 wrong shape": (PREDICT, {"instances": [[1, 2]]}, 400, ("'x'", "[1, 2]", "[-1, 3]")),
    "v1 ragged": (PREDICT, {"instances": [[1, 2, 3], [1]]}, 400, ("'x'", "different lengths", "[-1, 3]")),
    "v1 strings": (PREDICT, {"instances": [["a", "b", "c"]]}, 400, ("'x'", "FP32", "strings")),
    "v1 null": (PREDICT, {"instances": [[1, None, 3]]}, 400, ("'x'", "FP32")),
    "v1 booleans": (PREDICT, {"instances": [[True, True, False]]}, 400, ("'x'", "FP32", "booleans")),
    "unknown model": ("/v1/models/other:predict", {"instances": [ROW]}, 404, ("'other'", "'m'")),
    "unknown model, v2": ("/v2/models/other/infer", {"inputs": [x()]}, 404, ("'other'", "'m'")),
    "unknown version": ("/v2/models/m/versions/9/infer", {"inputs": [x()]}, 404, ("'9'", "3")),
    "unknown path": ("/v3/models", {}, 404, ("'/v3/models'",)),
    "wrong method": ("/v2/health/live", {}, 405, ("POST", "GET")),
    "no inputs": (INFER, {}, 400, ("inputs",)),
    "unknown input": (INFER, {"inputs": [x(name="z")]}, 400, ("'z'", "x")),
    "input twice": (INFER, {"inputs": [x(), x()]}, 400, ("'x'", "twice")),
    "v2 wrong shape": (INFER, {"inputs": [x(shape=[1, 2], data=[1, 2])]}, 400, ("'x'", "[1, 2]", "[-1, 3]")),
    "v2 wrong datatype": (INFER, {"inputs": [x(datatype="INT64")]}, 400, ("'x'", "'INT64'", "FP32")),
    "v2 BYTES": (INFER, {"inputs": [x(datatype="BYTES", data=["a", "b", "c"])]}, 400, ("'x'", "'BYTES'", "FP32")),
    "v2 too few values": (INFER, {"inputs": [x(data=[1, 2])]}, 400, ("'x'", "2 values", "[1, 3]", "3")),
    "v2 nonsense shape": (INFER, {"inputs": [x(shape=[-1, 3])]}, 400, ("'x'", "[-1, 3]")),
    "v2 no data": (INFER, {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32"}]}, 400, ("'x'", "data")),
    "v2 unknown output": (INFER, {"inputs": [x()], "outputs": [{"name": "q"}]}, 400, ("'q'", "y")),
    "v2 shared memory": (INFER, {"inputs": [x(parameters={"shared_memory_region": "r"})]}, 400, ("shared memory",)),
    "v2 bytes announced but missing": (
        INFER,
        {"inputs": [x(parameters={"binary_data_size": 12})]},
        400,
        ("'x'", "12 bytes", "0"),
    ),
    "v2 wrong number of bytes": (INFER, {"inputs": [x(parameters={"binary_data_size": 8})]}, 400, ("'x'", "8", "12")),
    "too large": (PREDICT, b"x" * 100_001, 413, ("100000 bytes",)),
}


@pytest.mark.parametrize(("path", "body", "status", "words"), REFUSED.values(), ids=REFUSED)
def test_a_mistake_is_refused_in_words_that_name_it(
    server: Running, path: str, body: Any, status: int, words: tuple[str, ...]
) -> None:
    got, answer = server.ask("POST", path, body)
    assert got == status
    assert all(word in answer["error"] for word in words), answer


def test_numbers_that_an_integer_cannot_hold_are_refused(two: Running) -> None:
    for k, words in ((1.5, "fractions"), (2**70, "'k'")):
        status, answer = two.ask("POST", PREDICT, {"instances": [{"a": [1], "k": k}]})
        assert (status, words in answer["error"]) == (400, True), answer


def test_inputs_with_different_numbers_of_rows_are_refused(two: Running) -> None:
    status, answer = two.ask("POST", PREDICT, {"inputs": {"a": [[1, 2]], "k": [1, 2]}})
    assert (status, "2 rows" in answer["error"]) == (400, True)


def test_a_wrong_length_of_the_json_header_is_refused(server: Running) -> None:
    for length in ("-1", "abc", "99999"):
        status, answer = server.ask("POST", INFER, {"inputs": [x()]}, headers={BINARY: length})
        assert (status, BINARY in answer["error"]) == (400, True)


def test_a_body_in_an_unknown_coding_is_refused_with_415(server: Running) -> None:
    status, answer = server.ask("POST", PREDICT, b"abc", headers={"Content-Encoding": "br"})
    assert (status, "'br' is not supported" in answer["error"]) == (415, True)


def test_bytes_that_no_input_announced_are_refused(server: Running) -> None:
    header = json.dumps({"inputs": [x()]}).encode()
    status, answer = server.ask("POST", INFER, header + b"1234", headers={BINARY: str(len(header))})
    assert (status, "4 bytes follow" in answer["error"]) == (400, True)


DATATYPES = ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BF16")


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_every_datatype_passes_unchanged_with_the_reference_client(binary: bool) -> None:
    tensors = tuple(Tensor(name=name, datatype=name, shape=(-1, 2)) for name in DATATYPES)
    sent = {name: np.array([[0, 1], [1, 1]]).astype(triton_dtype(name)) for name in DATATYPES}
    signature = Signature(
        inputs=tensors, outputs=tuple(Tensor(name=f"{t.name}-out", datatype=t.datatype, shape=t.shape) for t in tensors)
    )
    with running(lambda *values: values, signature=signature) as server:
        client = triton.InferenceServerClient(f"127.0.0.1:{server.server.port}")
        inputs = [triton.InferInput(name, [2, 2], name) for name in DATATYPES]
        for tensor in inputs:
            # The client has no JSON form for the short floats.
            tensor.set_data_from_numpy(sent[tensor.name()], binary_data=binary or tensor.name() in ("FP16", "BF16"))
        outputs = [triton.InferRequestedOutput(f"{n}-out", binary_data=binary or n in ("FP16", "BF16")) for n in DATATYPES]
        result = client.infer("m", inputs, outputs=outputs, request_id="7")
        assert result.get_response()["id"] == "7"
        for name in DATATYPES:
            assert np.array_equal(result.as_numpy(f"{name}-out"), sent[name]), name
        client.close()


def triton_dtype(name: str) -> Any:
    return np.dtype(ml_dtypes.bfloat16 if name == "BF16" else triton.triton_to_np_dtype(name))


def test_the_reference_client_finds_its_way(server: Running) -> None:
    client = triton.InferenceServerClient(f"127.0.0.1:{server.server.port}")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("m")
    assert client.is_model_ready("m", "3")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["name"] == "modelmill"
    assert client.get_model_metadata("m")["platform"] == "pytorch"
    tensor = triton.InferInput("x", [1, 2], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 2), np.float32))
    with pytest.raises(triton.InferenceServerException, match=r"\[1, 2\] does not fit"):
        client.infer("m", [tensor])
    client.close()
