"""A pod of a generative model for tests: the real server, with a stand-in for vLLM on the PATH."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from modelmill.artifact.import_ import Source, import_model
from modelmill.artifact.registry import Registry
from modelmill.serve.server import Server
from modelmill.serve.vllm.server import VllmServer
from tests.unit.artifact.generative import write_folder
from tests.unit.serve import fake_vllm
from tests.unit.serve.support import Running, in_thread, service


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
    # Clients see no difference between the two; it has all that `Running` uses.
    with in_thread(lambda: cast(Server, VllmServer(service(**changes))), load=load) as handle:
        yield handle
