"""What goes over the wire, against servers that do as the test tells, and against Triton's own client library."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tritonclient.utils import serialize_byte_tensor

from modelmill.client import BadAnswer, Client
from tests.unit.client.scripted import Answer, Asked, echo, outputs, reading, replies, scripted
from tests.unit.client.support import Opener

X = np.array([[1, 2]], dtype=np.float32)
TEXTS = np.array([["a", "bc"], ["", "dé"]], dtype=object)


def without_binary(asked: Asked) -> Answer:
    return reading(asked, extensions=("model_repository",)) if asked.path == "/v2" else echo(asked)


def test_a_server_without_the_binary_extension_gets_json_and_is_asked_about_it_once(opened: Opener) -> None:
    with scripted(without_binary) as server, opened(server.url) as client:
        for _ in range(2):
            np.testing.assert_array_equal(client.infer("m", {"x": X})["x"], X)
        posted = [asked for asked in server.asked if asked.method == "POST"]
    assert server.paths("GET") == ["/v2", "/v2/models/m"]
    assert [asked.json for asked in posted] == [
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}]}
    ] * 2


@pytest.mark.parametrize("status", [404, 501])
def test_a_server_that_tells_nothing_of_itself_gets_json(opened: Opener, status: int) -> None:
    def silent(asked: Asked) -> Answer:
        return Answer(status=status) if asked.method == "GET" else echo(asked)

    with scripted(silent) as server, opened(server.url) as client:
        np.testing.assert_array_equal(client.infer("m", {"x": X})["x"], X)
        assert "data" in server.asked[-1].json["inputs"][0]


def test_one_connection_serves_many_calls(opened: Opener) -> None:
    with scripted(echo) as server, opened(server.url) as client:
        for _ in range(5):
            client.infer("m", {"x": X})
    assert len({asked.peer for asked in server.asked}) == 1


def test_priority_and_timeout_have_tritons_names_and_units(opened: Opener) -> None:
    with scripted(echo) as server, opened(server.url) as client:
        client.infer("m", {"x": X}, priority=1, timeout=2.5, outputs=["x"])
    told = server.asked[-1].json
    assert told["parameters"] == {"priority": 1, "timeout": 2_500_000, "binary_data_output": True}
    assert told["outputs"] == [{"name": "x", "parameters": {"binary_data": True}}]


def test_bytes_are_written_as_tritons_client_writes_them(opened: Opener) -> None:
    with scripted(echo) as server, opened(server.url) as client:
        found = client.infer("m", {"x": TEXTS})["x"]
    sent = server.asked[-1]
    assert sent.body.endswith(serialize_byte_tensor(TEXTS).item())
    assert found.tolist() == [[b"a", b"bc"], [b"", "dé".encode()]]


def any_array(*, finite: bool) -> st.SearchStrategy[Any]:
    floats = arrays.floating_dtypes(sizes=(16, 32, 64), endianness="?")
    shapes = arrays.array_shapes(max_dims=3, min_side=0, max_side=4)
    limits = {"allow_nan": not finite, "allow_infinity": not finite}
    return st.one_of(
        arrays.arrays(arrays.boolean_dtypes() | arrays.integer_dtypes(endianness="?"), shapes),
        arrays.arrays(floats, shapes, elements=limits),
    )


@pytest.fixture(scope="module")
def raw() -> Iterator[Client]:
    with scripted(echo) as server, Client(server.url) as client:
        yield client


@pytest.fixture(scope="module")
def plain() -> Iterator[Client]:
    with scripted(without_binary) as server, Client(server.url) as client:
        yield client


@given(sent=any_array(finite=False))
def test_every_array_survives_the_way_there_and_back(raw: Client, sent: Any) -> None:
    survives(raw, sent)


@given(sent=any_array(finite=True))
def test_every_array_of_numbers_survives_in_json(plain: Client, sent: Any) -> None:
    survives(plain, sent)


def survives(client: Client, sent: Any) -> None:
    found = client.infer("m", {"x": sent.T})["x"]
    assert found.dtype == sent.dtype.newbyteorder("<")
    np.testing.assert_array_equal(found, sent.T)


ANSWERS = {
    "no JSON": Answer(body=b"<html>"),
    "a list": Answer(body=b"[]"),
    "no outputs": Answer(body=b"{}"),
    "no datatype": outputs({"name": "x", "shape": [1], "data": [1]}),
    "unknown datatype": outputs({"name": "x", "shape": [1], "datatype": "FP8", "data": [1]}),
    "too few values": outputs({"name": "x", "shape": [3], "datatype": "FP32", "data": [1]}),
    "a text for a number": outputs({"name": "x", "shape": [1], "datatype": "FP32", "data": ["a"]}),
    "a number that is too large": outputs({"name": "x", "shape": [1], "datatype": "INT8", "data": [300]}),
    "less than announced": outputs({"name": "x", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}),
    "a header longer than all": Answer(body=b"{}", headers={"Inference-Header-Content-Length": "x"}),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_that_is_not_the_protocols_says_so(opened: Opener, answer: Answer) -> None:
    with scripted(replies(answer)) as server, opened(server.url) as client, pytest.raises(BadAnswer, match="not the Open"):
        client.infer("m", {"x": X})


INPUTS: dict[str, tuple[Any, type[Exception], str]] = {
    "nothing": ({}, ValueError, "inputs is empty"),
    "a list": ({"x": [1.0]}, TypeError, r"input 'x' is list, not a numpy array.*asarray"),
    "complex numbers": ({"x": np.zeros(2, dtype=np.complex64)}, TypeError, "input 'x'.*complex64.*astype"),
    "objects": ({"x": np.array([1, "a"], dtype=object)}, TypeError, "input 'x'.*str and bytes, not int"),
}


@pytest.mark.parametrize(("given_", "error", "words"), INPUTS.values(), ids=INPUTS)
def test_inputs_that_the_protocol_cannot_carry_are_named(opened: Opener, given_: Any, error: type[Exception], words: str) -> None:
    with scripted(echo) as server, opened(server.url) as client, pytest.raises(error, match=words):
        client.infer("m", given_)
    assert server.paths("POST") == []


def test_what_only_raw_tensors_can_carry_is_not_sent_as_json(opened: Opener) -> None:
    with scripted(echo) as server, opened(server.url) as client:
        for array in (np.array([np.nan], dtype=np.float32), np.array([b"\xff"], dtype=object)):
            assert client.infer("m", {"x": array})["x"].dtype == array.dtype
            with pytest.raises(ValueError, match=r"input 'x'.*JSON cannot carry.*binary_tensor_data"):
                client.infer("m", {"x": array}, binary=False)


def test_bad_arguments_name_the_value_and_what_to_do(opened: Opener) -> None:
    cases: dict[str, dict[str, Any]] = {
        r"url 'localhost:8080' must be http": {"url": "localhost:8080"},
        r"url 'http://h/v2': give the server's root, 'http://h'": {"url": "http://h/v2"},
        r"timeout 0 must be more than 0": {"url": "http://h", "timeout": 0},
        r"retries -1 must be 0 or more": {"url": "http://h", "retries": -1},
        r"api_key has characters.*line break": {"url": "http://h", "api_key": "key\n"},
        r"ca '/nowhere' is no file of certificates": {"url": "http://h", "ca": "/nowhere"},
    }
    for words, options in cases.items():
        with pytest.raises(ValueError, match=words), opened(**options):
            pass
    with opened("http://h") as client:
        with pytest.raises(ValueError, match="model is empty"):
            client.infer("", {"x": X})
        with pytest.raises(ValueError, match="priority -1 must be 0"):
            client.infer("m", {"x": X}, priority=-1)
        with pytest.raises(ValueError, match="timeout 0 must be more than 0"):
            client.infer("m", {"x": X}, timeout=0)


def test_the_client_needs_neither_torch_nor_the_server() -> None:
    code = (
        "import sys, modelmill.client\n"
        "print([name for name in sys.modules if name == 'torch' or name.startswith('modelmill.serve')])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told == "[]\n"
