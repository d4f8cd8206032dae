"""`modelmill serve`: from a name or a folder to the version that is served."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from modelmill.artifact.errors import DigestMismatch, VersionNotFound
from modelmill.artifact.folder import registry_of
from modelmill.artifact.import_ import Source, import_model
from modelmill.artifact.registry import Registry
from modelmill.cli import serve
from modelmill.client import Client
from modelmill.contract.servicefile import ServiceFile
from modelmill.serve.loader import load
from tests.ports import free_port
from tests.unit.cli.conftest import Command
from tests.unit.serve.support import running
from tests.unit.serve.test_artifact import ANSWER, BIAS, RECIPE, ROW, WEIGHT

X = np.array([ROW], dtype=np.float32)


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A published version's folder, copied out of its registry."""
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    (recipe / "line.py").write_text(RECIPE)
    save_file({"weight": WEIGHT, "bias": BIAS}, tmp_path / "w.safetensors")
    source = Source(weights=tmp_path / "w.safetensors", recipe=recipe, entrypoint="line:Line")
    registry = Registry(url=f"file://{tmp_path}/registry", namespace="default")
    import_model(registry, "m", source=source, channel="stable")
    return Path(shutil.copytree(tmp_path / "registry/default/m/1", tmp_path / "copy"))


def located(file: ServiceFile) -> dict[str, Any]:
    return {name: getattr(file, name) for name in ("registry", "namespace", "version", "digest")}


def test_a_folder_is_served_without_its_registry(version: Path, tmp_path: Path) -> None:
    file = serve.of_folder(version, variant=None, port=8080, scratch=tmp_path / "scratch")
    assert (file.model, file.version, file.variant, file.admin_port) == ("m", 1, "dense", 8081)
    with running(loader=load, **located(file)) as server, Client(f"http://127.0.0.1:{server.server.port}") as client:
        assert client.infer("m", {"x": X})["y"].tolist() == [ANSWER]


def test_a_folder_whose_files_were_changed_is_not_served(version: Path, tmp_path: Path) -> None:
    (version / "code/line.py").write_text(RECIPE.replace("nn.Linear(3, 2)", "print('other code')"))
    file = serve.of_folder(version, variant=None, port=8080, scratch=tmp_path / "scratch")
    with running(load=False, loader=load, **located(file)) as server, pytest.raises(DigestMismatch):
        server.on_loop(server.server.load())


def test_a_folder_without_a_manifest_says_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(VersionNotFound, match=r"no manifest.json in it; give the folder of one version"):
        registry_of(tmp_path, into=tmp_path)


def test_mistakes_are_one_line_that_says_what_to_do(modelmill: Command, version: Path, tmp_path: Path) -> None:
    registry = f"{tmp_path}/registry"
    cases: dict[tuple[str, ...], str] = {
        ("digits",): "which registry has the model 'digits'? Give --registry or MODELMILL_REGISTRY",
        ("./nowhere",): "nowhere: there is no manifest.json in it",
        ("other", "--registry", registry): "channel 'stable' of model 'other' has no version yet",
        ("m", "--registry", registry, "--version", "4", "--namespace", "default"): "has no version 4; it has 1",
    }
    for arguments, words in cases.items():
        done = modelmill("serve", *arguments)
        assert done.code == 1
        assert done.err.startswith("modelmill: ")
        assert words in done.err
        assert "\n" not in done.err
    done = modelmill("serve", str(version), "--version", "2")
    assert (done.code, "is one version already" in done.err) == (2, True)


def test_the_command_serves_until_it_is_interrupted(version: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "modelmill.cli", "serve", str(version), "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            with Client(f"http://127.0.0.1:{port}") as client:
                deadline = time.monotonic() + 90
                while not client.ready("m") and process.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.1)
                assert client.infer("m", {"x": X})["y"].tolist() == [ANSWER]
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
            assert process.stderr is not None
            assert f"m version 1 (dense): http://localhost:{port}/v2/models/m" in process.stderr.read()
        finally:
            process.kill()


def test_a_model_that_cannot_run_ends_the_command_with_its_reason(version: Path) -> None:
    save_file({"weight": torch.zeros(2, 3)}, version / "dense.safetensors")
    port = free_port()
    command = [sys.executable, "-m", "modelmill.cli", "serve", str(version), "--port", str(port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("modelmill: ")
    assert "dense.safetensors" in last
