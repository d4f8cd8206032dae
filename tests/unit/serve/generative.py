"""A pod of a generative model for tests: the real server, with a stand-in for vLLM on the PATH."""

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop

from modelmill.artifact.import_ import Source, import_model
from modelmill.artifact.registry import Registry
from modelmill.serve.server import Server
from modelmill.serve.vllm.server import VllmServer
from tests.unit.artifact.generative import write_folder
from tests.unit.serve import fake_vllm
from tests.unit.serve.support import Running, service


def fields(tmp_path: Path) -> dict[str, Any]:
    """A published model, as fields of a service file."""
    registry = Registry(url=f"file://{tmp_path}/registry", namespace="default")
    source = Source(generative=write_folder(tmp_path / "source"))
    published = import_model(registry, "m", source=source, channel="stable")
    return {"registry": registry.url, "digest": published.digest, "version": 1, "variant": "original", "engine": "vllm"}


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in, as the program `vllm` that is found first."""
    folder.mkdir()
    program = folder / "vllm"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{fake_vllm.__file__}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@contextmanager
def pod(*, load: bool = True, **changes: Any) -> Iterator[Running]:
    loop = uvloop.new_event_loop()
    unexpected: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: unexpected.append(context))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> VllmServer:
        server = VllmServer(service(**changes))
        await server.start(("127.0.0.1",))
        if load:
            await server.load()
        return server

    server = asyncio.run_coroutine_threadsafe(start(), loop).result(60)
    # Clients see no difference between the two; it has all that `Running` uses.
    handle = Running(cast(Server, server), loop)
    try:
        yield handle
    finally:
        handle.on_loop(handle.server.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
    assert not unexpected, unexpected
