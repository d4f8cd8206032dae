"""What the kubelet, the operator and its humans see: readiness, liveness, load, keys, TLS, drain, failed starts."""

import asyncio
import http.client
import json
import os
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from benchmarks.load import Load
from modelmill.contract import codec, result
from modelmill.contract.names import EXIT_FATAL
from modelmill.contract.servicefile import Tls
from modelmill.serve.__main__ import report as report_failure
from modelmill.serve.cpus import usable_cpus
from modelmill.serve.model import TorchModel
from modelmill.serve.warmup import warm_up
from tests.unit.serve.relay import Relay
from tests.unit.serve.support import DOUBLE, running, service
from tests.unit.serve.test_batching import Gate
from tests.unit.serve.test_http import eventually

BODY = json.dumps({"instances": [[1, 2, 3]]}).encode()
PREDICT = "/v1/models/m:predict"


def test_before_the_model_is_loaded_the_pod_is_alive_and_not_ready() -> None:
    with running(load=False) as server:
        assert server.admin("/livez")[0] == 200
        assert server.admin("/readyz") == (503, {"error": "the server is loading"})
        for method, path in (("POST", PREDICT), ("GET", "/v2/models/m/ready"), ("GET", "/v1/models/m")):
            status, answer = server.ask(method, path, BODY if method == "POST" else None)
            assert (status, "still loading" in answer["error"]) == (503, True)
        assert server.ask("GET", "/v2/health/ready")[0] == 503
        assert server.ask("GET", "/v2/health/live")[0] == 200
        server.on_loop(server.server.load())
        assert server.admin("/readyz")[0] == 200
        assert server.ask("GET", "/v2/health/ready")[0] == 200
        assert server.metric("phase_seconds", phase="warm-up") > 0
        assert server.metric("phase_seconds", phase="load") > 0


def test_a_model_that_cannot_run_never_becomes_ready() -> None:
    def broken(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no kernel for this")

    with running(broken, load=False) as server:
        with pytest.raises(RuntimeError, match="no kernel for this"):
            server.on_loop(server.server.load())
        assert server.admin("/readyz")[0] == 503


def test_a_hung_execution_makes_the_pod_not_live_until_it_ends() -> None:
    gate = Gate()
    with running(gate, hang_seconds=0.2) as server, ThreadPoolExecutor(1) as clients:
        answer = clients.submit(server.predict, [[1, 0, 0]])
        assert eventually(lambda: server.admin("/livez")[0] == 503)
        assert "an execution has been running for" in server.admin("/livez")[1]["error"]
        gate.open.set()
        assert answer.result()[0] == 200
        assert eventually(lambda: server.admin("/livez")[0] == 200)


def test_load_is_the_integral_of_requests_in_flight() -> None:
    gate = Gate()
    with running(gate) as server, ThreadPoolExecutor(4) as clients:
        before = server.admin("/load")[1]
        assert before["channelVersion"] is None
        answers = [clients.submit(server.predict, [[1, 0, 0]]) for _ in range(4)]
        assert eventually(lambda: server.admin("/load")[1]["inflight"] == 4)
        first = server.admin("/load")[1]
        time.sleep(0.3)
        second = server.admin("/load")[1]
        average = (second["concurrencySeconds"] - first["concurrencySeconds"]) / (
            second["uptimeSeconds"] - first["uptimeSeconds"]
        )
        assert average == pytest.approx(4, rel=0.05)
        gate.open.set()
        assert all(answer.result()[0] == 200 for answer in answers)
        assert server.admin("/load")[1]["requests"] == 4


def test_metrics_are_in_prometheus_format() -> None:
    with running() as server:
        assert server.predict([[1, 2, 3]])[0] == 200
        status, content, headers = server.exchange("GET", "/metrics", admin=True)
        assert (status, headers["content-type"].startswith("text/plain")) == (200, True)
        text = content.decode()
        assert 'modelmill_serve_requests_total{code="200",protocol="v1"} 1.0' in text
        assert 'modelmill_serve_model_info{digest="sha256:0",model="m",variant="dense",version="3"} 1.0' in text
        assert "modelmill_serve_ready 1.0" in text
        assert "process_resident_memory_bytes" in text


def test_drain_under_load_fails_nobody() -> None:
    def slow(x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.01)
        return x * 2

    with running(slow) as old, running(slow) as new, Relay(old.server.port) as relay, ThreadPoolExecutor(1) as pool:
        load = Load(f"http://127.0.0.1:{relay.port}{PREDICT}", body=BODY, connections=16)
        outcome = pool.submit(lambda: asyncio.run(load.run(60)))
        assert eventually(lambda: old.metric("inferences_total") > 50)
        threading.Timer(0.3, lambda: setattr(relay, "target", new.server.port)).start()
        assert old.on_loop(old.server.drain(propagation_seconds=1.0)) == 0
        assert eventually(lambda: new.metric("inferences_total") > 50)
        load.stop()
        report = outcome.result(30)
        assert report.failed == 0
        assert report.ok == old.requests_by_code()["200"] + new.requests_by_code()["200"]
        assert old.admin("/readyz") == (503, {"error": "the server is draining"})
        with pytest.raises(ConnectionRefusedError):
            old.ask("GET", "/v2")


def test_requests_in_flight_are_finished_and_new_ones_still_answered_while_draining() -> None:
    gate = Gate()
    with running(gate) as server, ThreadPoolExecutor(3) as clients:
        first = clients.submit(server.predict, [[1, 0, 0]])
        assert eventually(lambda: server.metric("queue_seconds_count") == 1)
        drained = clients.submit(lambda: server.on_loop(server.server.drain(propagation_seconds=0.4)))
        assert eventually(lambda: server.admin("/readyz")[0] == 503)
        second = clients.submit(server.exchange, "POST", PREDICT, BODY)
        time.sleep(0.6)
        gate.open.set()
        assert first.result()[0] == 200
        status, _, headers = second.result()
        assert (status, headers["connection"]) == (200, "close")
        assert drained.result() == 0


def test_drain_gives_up_on_what_takes_too_long() -> None:
    gate = Gate()
    with running(gate, drain_seconds=0.2) as server, ThreadPoolExecutor(1) as clients:
        answer = clients.submit(server.predict, [[1, 0, 0]])
        assert eventually(lambda: server.metric("queue_seconds_count") == 1)
        assert server.on_loop(server.server.drain(propagation_seconds=0.0)) == 1
        gate.open.set()
        assert answer.result()[0] == 200


def test_only_who_knows_a_key_gets_in(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("first\nsecond\n")
    with running(api_key_file=str(keys)) as server:
        for headers in ({"Authorization": "Bearer first"}, {"X-API-Key": "second"}, {"authorization": "bearer second"}):
            assert server.ask("POST", PREDICT, BODY, headers=headers)[0] == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"X-API-Key": ""}, {"Authorization": "Basic first"}):
            for path in (PREDICT, "/nowhere"):
                status, content, answered = server.exchange("POST", path, BODY, headers=headers)
                assert (status, answered["www-authenticate"]) == (401, "Bearer")
                assert b"API key" in content
        assert server.ask("GET", "/v2/health/ready")[0] == 200
        assert server.admin("/load")[1]["requests"] == 3


def test_a_changed_key_file_counts_without_a_restart(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("old")
    with running(api_key_file=str(keys)) as server:

        def code(key: str) -> int:
            return server.ask("GET", "/v1/models", headers={"X-API-Key": key})[0]

        assert code("old") == 200
        fresh = tmp_path / "fresh"
        fresh.write_text("new")
        fresh.rename(keys)
        assert eventually(lambda: code("new") == 200)
        assert code("old") == 401


def test_tls_serves_and_takes_a_new_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelmill.serve.server.CERTIFICATE_LOOK_SECONDS", 0.1)
    files = Tls(certificate_file=str(tmp_path / "tls.crt"), key_file=str(tmp_path / "tls.key"))
    certificate(files, name="localhost")
    with running(tls=files) as server:
        trusted = ssl.create_default_context(cafile=files.certificate_file)
        connection = http.client.HTTPSConnection("localhost", server.server.port, context=trusted, timeout=10)
        connection.request("POST", PREDICT, body=BODY)
        assert connection.getresponse().read() == b'{"predictions":[[2.0,4.0,6.0]]}'
        connection.request("POST", PREDICT, body=b"x" * 20_000_000)
        assert connection.getresponse().status == 413
        connection.close()
        certificate(files, name="localhost")
        renewed = ssl.create_default_context(cafile=files.certificate_file)
        assert eventually(lambda: greets(server.server.port, renewed))


def greets(port: int, trusted: ssl.SSLContext) -> bool:
    connection = http.client.HTTPSConnection("localhost", port, context=trusted, timeout=10)
    try:
        connection.request("GET", "/v2")
        return connection.getresponse().status == 200
    except ssl.SSLCertVerificationError:
        return False
    finally:
        connection.close()


def certificate(files: Tls, *, name: str) -> None:
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"),
            *("-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"),
            *("-keyout", files.key_file, "-out", files.certificate_file),
        ],
        check=True,
        capture_output=True,
    )


def test_a_failed_start_leaves_its_reason_for_the_operator(tmp_path: Path) -> None:
    path = str(tmp_path / "termination")
    Path(path).touch()
    assert report_failure(ImportError("No module named 'torchtext'"), path=path) == EXIT_FATAL
    left = result.read(Path(path).read_text())
    assert left
    assert (left.stage, left.ok, left.fatal, left.reason) == ("serve", False, True, "ImportError")
    assert "torchtext" in (left.message or "")
    assert report_failure(ConnectionError("the store is away"), path=path) == 1


def test_the_process_says_why_it_cannot_serve(tmp_path: Path) -> None:
    registry = f"file://{tmp_path}"
    environment = {**os.environ, "MODELMILL_SERVICE": codec.dumps(service(registry=registry))}
    done = subprocess.run([sys.executable, "-m", "modelmill.serve"], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == EXIT_FATAL, done.stderr
    assert "VersionNotFound" in done.stderr or "ModelNotFound" in done.stderr


@pytest.mark.parametrize(("text", "cpus"), [("100000 100000", 1), ("max 100000", None), ("1000 100000", 1)])
def test_threads_follow_the_pods_limit_not_the_nodes_size(tmp_path: Path, text: str, cpus: int | None) -> None:
    path = tmp_path / "cpu.max"
    path.write_text(text)
    assert usable_cpus(path) == (cpus or len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(("one", "several", "chosen"), [(0.05, 0.0, 2), (0.0, 0.05, 1), (0.01, 0.01, 1)])
def test_torch_gets_several_threads_only_where_they_pay(one: float, several: float, chosen: int) -> None:
    before = torch.get_num_threads()

    def module(x: torch.Tensor) -> torch.Tensor:
        time.sleep(one if torch.get_num_threads() == 1 else several)
        return x

    try:
        warm_up(TorchModel(module, signature=DOUBLE), max_rows=4, cpus=2)
        assert torch.get_num_threads() == chosen
    finally:
        torch.set_num_threads(before)
