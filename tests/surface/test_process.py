"""The serving process from outside: its ports, its signals, its exit code."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from typing import Any

from modelmill.artifact.registry import Committed, Registry
from modelmill.contract import codec
from modelmill.contract.names import ENV_SERVICE, EXIT_OK
from modelmill.contract.servicefile import ServiceFile
from tests.ports import free_port
from tests.unit.serve.support import service
from tests.unit.serve.test_artifact import ANSWER, ROW, published, registry, serving
from tests.unit.serve.test_http import eventually

__all__ = ["published", "registry"]


def test_the_process_serves_until_sigterm_and_exits_0(registry: Registry, published: Committed) -> None:
    port, admin_port = free_port(), free_port()
    file = service(**serving(registry, published, port=port, admin_port=admin_port))
    process = start(file)
    try:
        assert eventually(lambda: ask(f"http://127.0.0.1:{admin_port}/readyz") == (200, {"ready": True}), seconds=90)
        answer = ask(f"http://127.0.0.1:{port}/v1/models/m:predict", {"instances": [ROW]})
        assert answer == (200, {"predictions": [ANSWER]})
        process.send_signal(signal.SIGTERM)
        assert eventually(lambda: ask(f"http://127.0.0.1:{admin_port}/readyz")[0] == 503)
        # Clients that have not heard of it yet are still welcome.
        assert ask(f"http://127.0.0.1:{port}/v1/models/m:predict", {"instances": [ROW]}) == answer
        assert process.wait(30) == EXIT_OK
    finally:
        process.kill()
        process.wait()


def start(file: ServiceFile) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, ENV_SERVICE: codec.dumps(file)}
    return subprocess.Popen([sys.executable, "-m", "modelmill.serve"], env=environment, stderr=subprocess.DEVNULL)


def ask(url: str, content: Any = None) -> tuple[int, Any]:
    body = None if content is None else json.dumps(content).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
    except urllib.error.URLError:
        return 0, None
