"""The page's code runs, and its commands are accepted, as they are written."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modelmill.signature import Signature, Tensor
from tests.unit.cli.conftest import Command
from tests.unit.serve.support import Running, running

PAGE = (Path(__file__).parents[3] / "docs/client.md").read_text()
DIGITS = Signature(inputs=(Tensor(name="image", shape=(-1, 1, 8, 8)),), outputs=(Tensor(name="logits", shape=(-1, 10)),))


def digits(image: torch.Tensor) -> torch.Tensor:
    return image.flatten(1)[:, :10]


def here(text: str, server: Running) -> str:
    assert "http://localhost:8080" in text
    return text.replace("http://localhost:8080", f"http://127.0.0.1:{server.server.port}")


def test_the_pages_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, Any] = {}
    with running(digits, signature=DIGITS, model="digits") as server:
        for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
            exec(here(block, server), namespace)
    told = capsys.readouterr().out
    assert "TensorMetadata(name='image', datatype='FP32', shape=(-1, 1, 8, 8))" in told
    assert "[0 0]" in told


def test_the_pages_load_commands_run(modelmill: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("image.npy", np.zeros((1, 1, 8, 8), dtype=np.float32))
    commands = re.findall(r"^modelmill (bench .*?)(?:#.*)?$", PAGE, flags=re.MULTILINE)
    assert len(commands) == 4
    with running(digits, signature=DIGITS, model="digits") as server:
        for command in commands:
            # The last duration counts.
            done = modelmill(*shlex.split(here(command, server)), "--duration", "200ms")
            assert done.code == 0, done.err
    assert Path("figures.json").exists()
