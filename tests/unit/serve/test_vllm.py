"""Generative models: the pod around vLLM, with a stand-in for vLLM itself (fake_vllm.py).

What only the real vLLM can show (that it starts with this command line, and what it answers) is written down in
docs/design/0011-vllm.md.
"""

import http.client
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from modelmill.artifact.errors import GenerativeModel
from modelmill.contract import codec, result
from modelmill.contract.names import EXIT_FATAL
from modelmill.serve.__main__ import report as report_failure
from modelmill.serve.loader import load as load_module
from modelmill.serve.vllm import command
from modelmill.serve.vllm.child import EngineDied, last_words
from modelmill.serve.vllm.command import NotInstalled
from tests.unit.serve import fake_vllm
from tests.unit.serve.generative import fields, install, pod
from tests.unit.serve.support import Running, running, service
from tests.unit.serve.test_http import eventually

COMPLETIONS = "/v1/completions"


@pytest.fixture
def llama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    install(tmp_path / "bin", monkeypatch)
    return fields(tmp_path)


def generate(server: Running, prompt: str, tokens: int = 3, **more: Any) -> tuple[int, Any]:
    return server.ask("POST", COMPLETIONS, {"model": "m", "prompt": prompt, "max_tokens": tokens}, **more)


@contextmanager
def stream(server: Running, prompt: str, tokens: int = 3) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(*server.address, timeout=30)
    try:
        body = json.dumps({"model": "m", "prompt": prompt, "max_tokens": tokens, "stream": True})
        connection.request("POST", COMPLETIONS, body, {"Content-Type": "application/json"})
        yield connection.getresponse()
    finally:
        connection.close()


def in_flight(server: Running) -> int:
    found = server.admin("/load")[1]["inflight"]
    assert isinstance(found, int)
    return found


def running_in_vllm(server: Running) -> float:
    text = server.exchange("GET", "/metrics", admin=True)[1].decode()
    (family,) = (one for one in text_string_to_metric_families(text) if one.name == "vllm:num_requests_running")
    return family.samples[0].value


def test_the_pod_is_ready_only_when_vllm_says_that_it_is_healthy(
    llama: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unhealthy = tmp_path / "unhealthy"
    unhealthy.touch()
    monkeypatch.setenv(fake_vllm.UNHEALTHY, str(unhealthy))
    with pod(load=False, **llama) as server, ThreadPoolExecutor(1) as threads:
        loading = threads.submit(server.on_loop, server.server.load())
        # Else fetching would count for the half second that loading is to take.
        assert eventually(lambda: server.metric("phase_seconds", phase="fetch") > 0)
        time.sleep(0.5)
        assert server.admin("/livez")[0] == 200
        assert server.admin("/readyz") == (503, {"error": "the server is loading"})
        status, answer = generate(server, "a")
        assert (status, "still loading" in answer["error"]["message"]) == (503, True)
        assert not loading.done()
        unhealthy.unlink()
        loading.result(30)
        assert server.admin("/readyz")[0] == 200
        assert server.metric("phase_seconds", phase="load") > 0.5
        unhealthy.touch()
        assert server.admin("/readyz")[0] == 503


def test_what_clients_and_vllm_say_is_passed_on(llama: dict[str, Any]) -> None:
    with pod(**llama) as server:
        assert server.ask("GET", "/v1/models") == (200, {"data": [{"id": "m"}]})
        assert generate(server, "a", 2) == (200, {"choices": [{"text": "a0 a1 "}]})
        headers = {"Authorization": "Bearer key", "X-Request-Id": "7", "Cookie": "c"}
        status, told = generate(server, "told", headers=headers)
        assert status == 200
        assert {"authorization", "cookie"}.isdisjoint(told["headers"])
        assert told["headers"]["x-request-id"] == "7"
        assert server.requests_by_code() == {"200": 3}


def test_vllm_is_started_with_the_model_alone_and_without_secrets(llama: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("VLLM_API_KEY", "key")
    monkeypatch.setenv(command.ARGUMENTS, "--max-model-len 64 --load-format 'safetensors'")
    with pod(container_concurrency=7, **llama) as server:
        told = generate(server, "told")[1]
    assert told["files"] == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert {"AWS_SECRET_ACCESS_KEY", "VLLM_API_KEY", command.ARGUMENTS}.isdisjoint(told["environment"])
    assert (told["environment"]["VLLM_NO_USAGE_STATS"], told["environment"]["HF_HUB_OFFLINE"]) == ("1", "1")
    arguments = " ".join(told["argv"])
    assert "--max-num-seqs 7 --allowed-media-domains none.invalid --max-model-len 64" in arguments
    assert "--served-model-name m" in arguments
    assert "remote-code" not in arguments


def test_a_home_that_cannot_be_written_is_replaced(tmp_path: Path) -> None:
    assert command.environment({"HOME": str(tmp_path)}, home=Path("/other"))["HOME"] == str(tmp_path)
    assert command.environment({"HOME": "/nowhere"}, home=Path("/other"))["HOME"] == "/other"
    assert command.environment({}, home=Path("/other"))["HOME"] == "/other"


def test_arguments_that_no_shell_would_take_are_refused() -> None:
    with pytest.raises(command.BadArguments, match=r"MODELMILL_VLLM_ARGUMENTS is .* write it as in a shell"):
        command.arguments(service(), Path("m"), socket=Path("s"), further="--a 'b")


@pytest.mark.parametrize("version", ["1.1", "2"])
def test_each_token_passes_before_the_next_one_is_there(llama: dict[str, Any], tmp_path: Path, version: str) -> None:
    gate = tmp_path / "gate"
    with pod(**llama) as server:
        body = json.dumps({"model": "m", "prompt": str(gate), "max_tokens": 3, "stream": True})
        with curl_stream(server, body, version) as lines:
            assert next(lines) == f"data: {gate}0 \n"
            time.sleep(0.2)
            assert in_flight(server) == 1
            gate.touch()
            rest = "".join(lines)
        assert rest == f"\ndata: {gate}1 \n\ndata: {gate}2 \n\ndata: [DONE]\n\n"
        assert eventually(lambda: server.requests_by_code() == {"200": 1})
        assert server.metric("sent_bytes_total") == len(rest) + len(f"data: {gate}0 \n")
        assert in_flight(server) == 0


@contextmanager
def curl_stream(server: Running, body: str, version: str) -> Iterator[Iterator[str]]:
    flag = {"1.1": "--http1.1", "2": "--http2-prior-knowledge"}[version]
    url = f"http://127.0.0.1:{server.server.port}{COMPLETIONS}"
    arguments = ["curl", "-sN", flag, "-H", "Content-Type: application/json", "-d", body, url]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield iter(process.stdout)


def test_a_connection_goes_on_after_a_stream(llama: dict[str, Any]) -> None:
    with pod(**llama) as server:
        connection = http.client.HTTPConnection(*server.address, timeout=30)
        for _ in range(3):
            body = json.dumps({"model": "m", "prompt": "a", "max_tokens": 1, "stream": True})
            connection.request("POST", COMPLETIONS, body)
            assert connection.getresponse().read() == b"data: a0 \n\ndata: [DONE]\n\n"
        connection.close()


def test_a_client_of_http_1_0_gets_a_stream_that_ends_with_its_connection(llama: dict[str, Any]) -> None:
    with pod(**llama) as server, socket.create_connection(server.address, timeout=30) as connection:
        body = json.dumps({"model": "m", "prompt": "a", "max_tokens": 1, "stream": True})
        connection.sendall(f"POST {COMPLETIONS} HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        received = b"".join(iter(lambda: connection.recv(4096), b""))
    head, _, content = received.partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert content == b"data: a0 \n\ndata: [DONE]\n\n"


@pytest.mark.parametrize("streaming", [True, False])
def test_a_client_that_goes_away_ends_its_generation(llama: dict[str, Any], streaming: bool) -> None:
    with pod(**llama) as server:
        connection = http.client.HTTPConnection(*server.address, timeout=30)
        body = {"model": "m", "prompt": "a", "max_tokens": fake_vllm.FOR_EVER, "stream": streaming}
        connection.request("POST", COMPLETIONS, json.dumps(body))
        if streaming:
            assert connection.getresponse().readline() == b"data: a0 \n"
        assert eventually(lambda: (in_flight(server), running_in_vllm(server)) == (1, 1))
        connection.close()
        assert eventually(lambda: (in_flight(server), running_in_vllm(server)) == (0, 0))
        assert eventually(lambda: server.requests_by_code() == {"499": 1})


def test_a_stream_of_http_2_that_is_given_up_ends_its_generation(llama: dict[str, Any]) -> None:
    with pod(**llama) as server:
        body = json.dumps({"model": "m", "prompt": "a", "max_tokens": fake_vllm.FOR_EVER, "stream": True})
        with curl_stream(server, body, "2") as lines:
            assert next(lines) == "data: a0 \n"
        assert eventually(lambda: (in_flight(server), running_in_vllm(server)) == (0, 0))
        assert server.requests_by_code() == {"499": 1}


def test_a_client_that_does_not_read_stops_the_generation_until_it_does(llama: dict[str, Any]) -> None:
    with pod(**llama) as server, stream(server, "a" * 1_000_000, 60) as answer:
        time.sleep(1.0)
        assert server.on_loop(held_bytes(server)) < 20_000_000
        assert answer.read().endswith(b"data: [DONE]\n\n")


async def held_bytes(server: Running) -> int:
    """What waits for clients in the server."""
    return sum(connection.transport.get_write_buffer_size() for connection in server.server._main.connections)


def test_without_a_key_nothing_reaches_vllm(llama: dict[str, Any], tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("first\nsecond\n")
    with pod(api_key_file=str(keys), **llama) as server:
        assert generate(server, "a")[0] == 401
        assert generate(server, "a", headers={"Authorization": "Bearer wrong"})[0] == 401
        assert generate(server, "a", headers={"Authorization": "Bearer second"})[0] == 200
        assert generate(server, "a", headers={"X-API-Key": "first"})[0] == 200
        assert server.ask("GET", "/v1/models")[0] == 401


def test_load_counts_every_request_that_vllm_has_and_the_integral_goes_on(llama: dict[str, Any], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with pod(**llama) as server, ThreadPoolExecutor(3) as clients:
        answers = [clients.submit(generate, server, str(gate)) for _ in range(3)]
        assert eventually(lambda: (in_flight(server), running_in_vllm(server)) == (3, 3))
        before = server.admin("/load")[1]
        time.sleep(0.3)
        after = server.admin("/load")[1]
        gate.touch()
        assert [answer.result()[0] for answer in answers] == [200] * 3
        seconds = after["uptimeSeconds"] - before["uptimeSeconds"]
        assert (after["concurrencySeconds"] - before["concurrencySeconds"]) / seconds == pytest.approx(3.0, rel=0.05)
        assert eventually(lambda: (in_flight(server), running_in_vllm(server)) == (0, 0))


def test_the_metrics_of_both_are_one_exposition(llama: dict[str, Any]) -> None:
    with pod(**llama) as server:
        text = server.exchange("GET", "/metrics", admin=True)[1].decode()
    names = [family.name for family in text_string_to_metric_families(text)]
    assert len(names) == len(set(names))
    assert {"vllm:num_requests_running", "modelmill_serve_in_flight_requests", "process_cpu_seconds"} <= set(names)


def test_more_requests_than_may_wait_are_refused(llama: dict[str, Any], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with pod(container_concurrency=1, queue_limit=1, **llama) as server, ThreadPoolExecutor(2) as clients:
        answers = [clients.submit(generate, server, str(gate)) for _ in range(2)]
        assert eventually(lambda: in_flight(server) == 2)
        status, answer, headers = server.exchange("POST", COMPLETIONS, {"prompt": "a", "max_tokens": 1})
        assert (status, headers["retry-after"]) == (503, "1")
        assert "2 requests are being handled or wait" in json.loads(answer)["error"]["message"]
        gate.touch()
        assert [answer.result()[0] for answer in answers] == [200, 200]


def test_a_request_ends_at_its_timeout(llama: dict[str, Any]) -> None:
    with pod(timeout_seconds=0.4, **llama) as server:
        status, answer = generate(server, "a", fake_vllm.FOR_EVER)
        assert (status, "no whole answer within 0.4 s" in answer["error"]["message"]) == (504, True)
        with stream(server, "a", fake_vllm.FOR_EVER) as begun, pytest.raises(http.client.IncompleteRead):
            begun.read()
        assert eventually(lambda: running_in_vllm(server) == 0)
        assert server.metric("expired_total") == 2
        assert server.requests_by_code() == {"504": 1, "200": 1}


def test_what_other_models_answer_is_refused_with_what_to_ask_instead(llama: dict[str, Any]) -> None:
    with pod(**llama) as server:
        for path in ("/v1/models/m:predict", "/v2/models/m/infer", "/v1/embeddings"):
            status, answer = server.ask("POST", path, {})
            assert (status, "POST /v1/chat/completions" in answer["error"]) == (404, True)
        assert server.ask("POST", "/v1/load_lora_adapter", {})[0] == 404


def test_a_drain_lets_a_generation_end(llama: dict[str, Any], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with pod(**llama) as server, ThreadPoolExecutor(2) as clients:
        with stream(server, str(gate)) as answer:
            assert answer.readline() == f"data: {gate}0 \n".encode()
            vllm = generate(server, "told")[1]["pid"]
            left = clients.submit(server.on_loop, server.server.drain(propagation_seconds=0.3))
            assert eventually(lambda: server.admin("/readyz") == (503, {"error": "the server is draining"}))
            assert generate(server, "late")[0] == 200
            time.sleep(0.5)
            assert not left.done()
            gate.touch()
            assert answer.read().endswith(b"data: [DONE]\n\n")
        assert left.result() == 0
    with pytest.raises(ProcessLookupError):
        os.kill(vllm, 0)


def test_a_death_of_vllm_cuts_its_streams_and_fails_the_pod_with_its_last_words(llama: dict[str, Any], tmp_path: Path) -> None:
    with pod(**llama) as server, ThreadPoolExecutor(1) as threads:
        failed = threads.submit(server.on_loop, server.server.failed())
        with stream(server, "a", fake_vllm.FOR_EVER) as answer:
            assert answer.readline() == b"data: a0 \n"
            assert generate(server, "die")[0] == 502
            with pytest.raises(http.client.IncompleteRead):
                answer.read()
        error = failed.result(10)
        assert server.admin("/livez")[0] == 503
    assert isinstance(error, EngineDied)
    log = tmp_path / "termination-log"
    log.touch()
    assert report_failure(error, path=str(log)) == 1
    told = result.read(log.read_text())
    assert told and told.reason == "VllmDied"
    assert told.message == (
        "vLLM ended with exit code 3. Its last words: ValueError: no room for the cache\nsee the root cause above"
    )


def test_a_vllm_that_does_not_start_fails_the_pod_with_its_last_words(
    llama: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fake_vllm.DIES_AT_START, "no such architecture")
    with pod(load=False, **llama) as server, pytest.raises(EngineDied, match="RuntimeError: no such architecture"):
        server.on_loop(server.server.load())


def test_the_cause_comes_before_what_follows_from_it() -> None:
    traceback = ["  at x"] * 300
    warning = "(Server) WARNING 01-01 this may lead to `OSError: too many files`"
    lines = [warning, "(Core) ERROR ValueError: no memory", *traceback, "a.v1.DeadError: see above", "ValueError: no memory"]
    assert last_words(lines) == "ValueError: no memory\na.v1.DeadError: see above\n  at x"
    assert last_words(["killed"]) == "killed"
    assert last_words([]) == "none"
    assert len(last_words([f"ValueError: {'x' * 9000}"])) == 1500


def test_without_vllm_the_pod_says_what_it_needs_and_nothing_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llama = fields(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    log = tmp_path / "termination-log"
    log.touch()
    with pod(load=False, **llama) as server:
        with pytest.raises(NotInstalled) as caught:
            server.on_loop(server.server.load())
        assert server.metric("phase_seconds", phase="fetch") == 0
    assert report_failure(caught.value, path=str(log)) == EXIT_FATAL
    told = codec.loads(result.StageResult, log.read_text())
    assert told.message and "version 1 of model 'm' is generative and is served by vLLM" in told.message
    assert "set spec.image" in told.message


def test_a_generative_version_that_was_resolved_as_another_one_is_not_loaded(llama: dict[str, Any]) -> None:
    llama.pop("engine")
    with running(load=False, loader=load_module, **llama) as server, pytest.raises(GenerativeModel, match="vllm serves it"):
        server.on_loop(server.server.load())
