"""The serving process of a generative model from outside, with a stand-in for vLLM: its memory, its signals, its exit codes."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from modelmill.contract.names import EXIT_FATAL, EXIT_OK
from tests.ports import free_ports
from tests.surface.test_process import ask, start
from tests.unit.serve.generative import fields, install
from tests.unit.serve.support import service
from tests.unit.serve.test_http import eventually


@pytest.fixture
def llama(tmp_path: Path) -> dict[str, Any]:
    port, admin_port = free_ports(2)
    return {**fields(tmp_path), "port": port, "admin_port": admin_port}


def test_the_process_serves_without_torch_until_sigterm_and_takes_vllm_with_it(
    llama: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "bin", monkeypatch)
    public, admin = (f"http://127.0.0.1:{llama[name]}" for name in ("port", "admin_port"))
    process = start(service(**llama))
    try:
        assert eventually(lambda: ask(f"{admin}/readyz") == (200, {"ready": True}), seconds=30)
        status, told = ask(f"{public}/v1/completions", {"prompt": "told"})
        assert (status, told["argv"][0]) == (200, "serve")
        assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()
        process.send_signal(signal.SIGTERM)
        assert eventually(lambda: ask(f"{admin}/readyz")[0] == 503)
        # Clients that have not heard of it yet are still welcome.
        assert ask(f"{public}/v1/models")[0] == 200
        assert process.wait(30) == EXIT_OK
        assert not Path(f"/proc/{told['pid']}").exists()
    finally:
        process.kill()
        process.wait()


def test_the_process_exits_1_when_vllm_dies_and_64_when_there_is_none(
    llama: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = os.pathsep.join(folder for folder in os.environ["PATH"].split(os.pathsep) if not Path(folder, "vllm").exists())
    monkeypatch.setenv("PATH", without)
    assert start(service(**llama)).wait(30) == EXIT_FATAL
    install(tmp_path / "bin", monkeypatch)
    process = start(service(**llama))
    try:
        assert eventually(lambda: ask(f"http://127.0.0.1:{llama['admin_port']}/readyz")[0] == 200, seconds=30)
        assert ask(f"http://127.0.0.1:{llama['port']}/v1/completions", {"prompt": "die"})[0] in (0, 502)
        assert process.wait(30) == 1
    finally:
        process.kill()
        process.wait()
