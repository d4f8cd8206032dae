"""What Triton's and KServe's clients ask besides inference, numbers without a JSON form, and the page about it all."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.http as triton

from modelmill.signature import Signature, Tensor
from tests.unit.serve.curl import VERSIONS
from tests.unit.serve.support import DOUBLE, MIXED, Running, mixed, running

PAGE = (Path(__file__).parents[3] / "docs" / "serving-protocols.md").read_text()
INFER = "/v2/models/m/infer"
ROW = [1.0, 2.0, 3.0]


@pytest.fixture(scope="module", params=VERSIONS)
def server(request: pytest.FixtureRequest) -> Iterator[Running]:
    with running() as handle:
        handle.curl = request.param
        yield handle


@pytest.fixture
def client(server: Running) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(f"127.0.0.1:{server.server.port}")
    yield client
    client.close()


def infer(client: triton.InferenceServerClient, *, rows: int = 1, **options: Any) -> Any:
    tensor = triton.InferInput("x", [rows, 3], "FP32")
    tensor.set_data_from_numpy(np.ones((rows, 3), np.float32))
    return client.infer("m", [tensor], **options)


# --- repository


def test_the_repository_holds_the_one_model(client: triton.InferenceServerClient, server: Running) -> None:
    entry = {"name": "m", "version": "3", "state": "READY", "reason": ""}
    assert client.get_model_repository_index() == [entry]
    assert server.ask("POST", "/v2/repository/index", {"ready": True}) == (200, [entry])
    assert server.ask("GET", "/v2/models") == (200, {"models": ["m"]})


def test_while_it_loads_the_model_is_in_the_repository_and_not_ready() -> None:
    with running(load=False) as server:
        assert server.ask("POST", "/v2/repository/index")[1][0]["state"] == "LOADING"
        assert server.ask("POST", "/v2/repository/index", {"ready": True}) == (200, [])
        for method, path in (
            ("POST", "/v2/repository/models/m/load"),
            ("GET", "/v2/models/m/config"),
            ("GET", "/v2/models/m/stats"),
            ("GET", "/openapi.json"),
        ):
            status, answer = server.ask(method, path)
            assert (status, "still loading" in answer["error"]) == (503, True)


def test_loading_the_served_model_is_done_already(client: triton.InferenceServerClient) -> None:
    client.load_model("m")
    assert client.is_model_ready("m")


def test_everything_else_about_the_repository_is_the_modelservices_affair(client: triton.InferenceServerClient) -> None:
    calls = (
        lambda: client.load_model("other"),
        lambda: client.load_model("m", config="{}"),
        lambda: client.unload_model("m"),
        lambda: client.unload_model("other"),
    )
    for call in calls:
        with pytest.raises(triton.InferenceServerException, match="channel that the ModelService follows") as refusal:
            call()
        assert refusal.value.status() == "400"
    assert client.is_model_ready("m")


@pytest.mark.parametrize("path", ["index", "models/m/load"])
def test_a_body_that_the_repository_does_not_understand_is_refused(server: Running, path: str) -> None:
    for body in (b"{nope", b"[]", b'{"ready": 1, "parameters": 1}'):
        assert server.ask("POST", f"/v2/repository/{path}", body)[0] == 400


# --- configuration and statistics


def test_the_configuration_is_worded_as_by_triton() -> None:
    with running(mixed, signature=MIXED, batcher_rows=7) as server:
        client = triton.InferenceServerClient(f"127.0.0.1:{server.server.port}")
        assert client.get_model_config("m") == client.get_model_config("m", "3")
        assert client.get_model_config("m") == {
            "name": "m",
            "platform": "pytorch",
            "backend": "pytorch",
            "max_batch_size": 7,
            "input": [
                {"name": "a", "data_type": "TYPE_FP32", "dims": [-1]},
                {"name": "k", "data_type": "TYPE_INT64", "dims": []},
            ],
            "output": [
                {"name": "sum", "data_type": "TYPE_FP32", "dims": []},
                {"name": "next", "data_type": "TYPE_INT64", "dims": []},
            ],
            "dynamic_batching": {"max_queue_delay_microseconds": 2000},
        }
        client.close()


def test_the_statistics_count_requests_rows_and_executions() -> None:
    def module(x: torch.Tensor) -> torch.Tensor:
        if (x == 666).any():
            raise ValueError("a value the model cannot stand")
        return x

    with running(module, signature=DOUBLE) as server:
        client = triton.InferenceServerClient(f"127.0.0.1:{server.server.port}")
        nothing = client.get_inference_statistics("m")["model_stats"][0]
        assert (nothing["inference_count"], nothing["inference_stats"]["success"]["count"]) == (0, 0)
        for rows in (1, 2, 5):
            infer(client, rows=rows)
        assert server.predict([ROW])[0] == 200
        assert server.predict([[666, 0, 0]])[0] == 500
        assert server.predict([[1]])[0] == 400
        assert server.ask("GET", "/v1/models")[0] == 200
        (stats,) = client.get_inference_statistics("m", "3")["model_stats"]
        assert (stats["name"], stats["version"]) == ("m", "3")
        assert (stats["inference_count"], stats["execution_count"]) == (9, 5)
        inference = stats["inference_stats"]
        assert (inference["success"]["count"], inference["fail"]["count"]) == (4, 1)
        assert (inference["queue"]["count"], inference["compute_infer"]["count"]) == (5, 5)
        assert 0 < inference["compute_infer"]["ns"] < inference["success"]["ns"]
        batches = [(batch["batch_size"], batch["compute_infer"]["count"]) for batch in stats["batch_stats"]]
        assert batches == [(1, 3), (2, 1), (8, 1)]
        assert client.get_inference_statistics()["model_stats"][0]["inference_count"] == 9
        client.close()


@pytest.mark.parametrize("what", ["config", "stats"])
def test_unknown_models_and_versions_have_neither(server: Running, what: str) -> None:
    for path in (f"/v2/models/other/{what}", f"/v2/models/m/versions/9/{what}"):
        assert server.ask("GET", path)[0] == 404


def test_what_the_server_says_it_can_do_it_can(client: triton.InferenceServerClient) -> None:
    shown = {
        "binary_tensor_data": lambda: infer(client).as_numpy("y"),
        "model_configuration": lambda: client.get_model_config("m"),
        "model_repository": client.get_model_repository_index,
        "schedule_policy": lambda: infer(client, priority=1, timeout=10_000_000),
        "statistics": client.get_inference_statistics,
    }
    assert sorted(client.get_server_metadata()["extensions"]) == sorted(shown)
    for call in shown.values():
        call()


def test_a_parameter_with_a_wrong_value_is_refused(server: Running) -> None:
    tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": ROW}
    wrong: list[dict[str, Any]] = [
        {"parameters": {"priority": 10}},
        {"parameters": {"timeout": -1}},
        {"parameters": {"binary_data_output": 1}},
        {"outputs": [{"name": "y", "parameters": {"binary_data": "yes"}}]},
        {"outputs": {}},
        {"id": 7},
    ]
    for extra in wrong:
        status, answer = server.ask("POST", INFER, {"inputs": [tensor], **extra})
        assert status == 400, answer


# --- numbers


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_short_floats_are_plain_numbers_in_json(datatype: str) -> None:
    signature = Signature(
        inputs=(Tensor(name="x", datatype=datatype, shape=(-1, 2)),),
        outputs=(Tensor(name="y", datatype=datatype, shape=(-1, 2)),),
    )
    # Written as briefly as 32 bits can be told apart. 3.39e38 is too large for FP16: infinity, which JSON has no word for.
    nearest = {"FP16": [1.0029297, None], "BF16": [1.0, 3.3895314e38]}[datatype]
    with running(lambda x: x, signature=signature) as server:
        tensor = {"name": "x", "shape": [1, 2], "datatype": datatype, "data": [1.003, 3.39e38]}
        status, answer = server.ask("POST", INFER, {"inputs": [tensor]})
        assert (status, answer["outputs"][0]["data"]) == (200, nearest)
        assert server.predict([[1.003, 3.39e38]]) == (200, {"predictions": [nearest]})


def test_bytes_are_refused_in_words(client: triton.InferenceServerClient) -> None:
    tensor = triton.InferInput("x", [1, 3], "BYTES")
    tensor.set_data_from_numpy(np.array([[b"a", b"b", b"c"]], dtype=np.object_))
    with pytest.raises(triton.InferenceServerException, match="datatype 'BYTES' given, the model needs FP32"):
        client.infer("m", [tensor])


PREDICT = "/v1/models/m:predict"
TENSOR = {"name": "x", "shape": [1, 3], "datatype": "FP32"}
NO_NUMBERS: list[tuple[str, Any, str]] = [
    (PREDICT, {"instances": [[False, 0.5, 1]]}, "expected FP32, got booleans among the numbers"),
    (PREDICT, {"inputs": {"x": 1}}, "shape [] does not fit"),
    (INFER, {"inputs": [{**TENSOR, "data": [True, 0.5, 1]}]}, "expected FP32, got booleans among the numbers"),
    (INFER, {"inputs": [{**TENSOR, "data": [2**70, 0.5, 1]}], "id": "long" * 2000}, "64 bits"),
    (INFER, {"inputs": [{**TENSOR, "shape": [1], "data": 1}]}, "shape [1] does not fit"),
    (INFER, {"inputs": [{**TENSOR, "data": 1}]}, 'expected "data" to be a list'),
]


@pytest.mark.parametrize(("path", "body", "words"), NO_NUMBERS)
def test_what_is_no_number_or_no_tensor_is_refused_in_words(server: Running, path: str, body: Any, words: str) -> None:
    status, answer = server.ask("POST", path, body)
    assert (status, words in answer["error"]) == (400, True), answer


def test_whole_numbers_may_be_written_as_floats() -> None:
    with running(mixed, signature=MIXED) as server:
        assert server.predict([{"a": [1], "k": 2.0}, {"a": [1], "k": 3}]) == (
            200,
            {"predictions": [{"sum": 2.0, "next": 3}, {"sum": 3.0, "next": 4}]},
        )
        for k in (1.5, 2.0**60):
            assert server.predict([{"a": [1], "k": k}])[0] == 400


# --- the page


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def test_every_command_of_the_page_works(server: Running) -> None:
    assert len(commands()) > 10
    for command in commands():
        here = command.replace("http://digits", f"http://127.0.0.1:{server.server.port}").replace("/digits", "/m")
        done = subprocess.run(
            ["bash", "-c", here.replace("curl ", "curl -sS -w '%{http_code}' ", 1)], capture_output=True, text=True, timeout=30
        )
        assert (done.returncode, done.stdout[-3:]) == (0, "200"), (here, done.stdout, done.stderr)


def test_the_page_names_every_path(server: Running) -> None:
    document = json.loads(server.exchange("GET", "/openapi.json")[1])
    for path in document["paths"]:
        short = path.replace("/versions/{version}", "").replace("{model}", "NAME")
        assert short in PAGE, path
