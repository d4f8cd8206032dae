"""Machine code in a version: served where it fits, is right and faster; and whatever is wrong with it, the model is served.

What `modelmill compile` refuses is in test_compile; how fast compiled models are is told by the command itself.
"""

import dataclasses
import itertools
import logging
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from modelmill.artifact.compiled import Compiled
from modelmill.cli import __main__ as cli
from modelmill.compress.formats.exported import example
from modelmill.compress.graph.tensors import clone
from modelmill.serve.compiled import build, measure
from modelmill.serve.compiled.candidate import ENVIRONMENT, best
from modelmill.serve.compiled.module import CompiledModule
from modelmill.serve.loader import load
from modelmill.serve.model import TorchModel
from modelmill.serve.optimize import apply
from modelmill.serve.warmup import warm_up
from tests.unit.serve.compiled import (
    LONGEST,
    WORDS,
    amended,
    compile_in_a_process_of_its_own,
    copied,
    opened,
    plain_of,
    published,
    registry_at,
)
from tests.unit.serve.support import MIXED, Running, running


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a registry whose model `text` has version 1, and 2 with machine code."""
    folder = tmp_path_factory.mktemp("compiled")
    published(folder)
    shapes = ("--rows", "1", "--rows", "3", "--length", "5")
    told = compile_in_a_process_of_its_own(folder, "text@1", *shapes, "--channel", "stable")
    assert "published version 2 of model text" in told
    return folder


@pytest.fixture(autouse=True)
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


@pytest.fixture
def module(compiled: Path, tmp_path: Path) -> CompiledModule:
    version = opened(compiled, 2, into=tmp_path)
    found = version.variant.compiled[0]
    plain, signature = plain_of(version), version.manifest.signature
    return CompiledModule(version.fetch(found.file), found, plain=plain, signature=signature, instances=2)


class Instant(nn.Module):
    def forward(self, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return ids


class Slow(Instant):
    def forward(self, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        time.sleep(0.01)
        return ids


def texts(rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randint(WORDS, (rows, length)), torch.rand(rows, length)


def serving(folder: Path, version: int) -> dict[str, Any]:
    registry = registry_at(folder)
    return {
        "registry": registry.url,
        "model": "text",
        "version": version,
        "digest": registry.read_manifest("text", version).digest,
    }


def ask(server: Running, ids: Any, weights: Any) -> tuple[int, Any]:
    return server.ask("POST", "/v1/models/text:predict", {"inputs": {"ids": ids, "weights": weights}})


def answer(server: Running) -> Any:
    status, content = ask(server, [[1, 2, 3], [4, 5, 6]], [[1.0, 0.5, 0.0], [1.0, 1.0, 1.0]])
    assert status == 200, content
    return content["predictions"]


def test_a_compiled_version_is_served_and_answers_like_the_one_before(compiled: Path, told: pytest.LogCaptureFixture) -> None:
    with running(loader=load, **serving(compiled, 1)) as server:
        expected = answer(server)
    assert "compiled" not in told.text
    with running(loader=load, **serving(compiled, 2)) as server:
        found = answer(server)
    assert "the compiled module is served" in told.text
    for ours, wanted in zip(found, expected, strict=True):
        assert ours["mean"] == pytest.approx(wanted["mean"]) and ours["largest"] == pytest.approx(wanted["largest"])


@pytest.mark.parametrize(("rows", "length"), [(1, 1), (1, 5), (2, 3), (7, LONGEST), (64, 2)])
def test_rows_and_lengths_are_free(module: CompiledModule, rows: int, length: int) -> None:
    inputs = texts(rows, length)
    largest, mean = module(*inputs)
    expected = module.plain(*inputs)
    torch.testing.assert_close(largest, expected["largest"])
    torch.testing.assert_close(mean, expected["mean"])


def test_inputs_that_it_was_not_made_for_go_to_the_module(module: CompiledModule) -> None:
    ids, weights = texts(2, 4)
    assert isinstance(module(ids.T.contiguous().T, weights), dict)
    with pytest.raises(RuntimeError, match="size of tensor"):
        module(*texts(2, LONGEST + 1))
    with pytest.raises(RuntimeError, match="size of tensor"):
        module(ids, weights[:, :3].contiguous())
    assert isinstance(module(ids, weights), tuple)


def test_an_index_out_of_range_fails_the_request_and_not_the_process(compiled: Path) -> None:
    with running(loader=load, **serving(compiled, 2)) as server:
        expected = answer(server)
        assert ask(server, [[WORDS + 1000]], [[1.0]])[0] == 500
        assert answer(server) == expected


def test_weights_are_in_memory_once(module: CompiledModule) -> None:
    inputs = texts(1, 2)
    before = module(*inputs)[0]
    with torch.no_grad():
        module.plain.get_parameter("words.weight").add_(100)
    after = module(*inputs)[0]
    torch.testing.assert_close(after, module.plain(*inputs)["largest"])
    assert before != after


def test_copies_answer_at_once(module: CompiledModule) -> None:
    copies = [clone(module) for _ in range(4)]
    inputs = [texts(rows, 4) for rows in range(1, 33)]
    expected = [module.plain(*one)["mean"] for one in inputs]
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda one, copy: copy(*one)[1], inputs, itertools.cycle(copies))
        for ours, wanted in zip(answers, expected, strict=True):
            torch.testing.assert_close(ours, wanted)


def test_other_threads_run_meanwhile(module: CompiledModule) -> None:
    inputs, ticks = texts(100_000, LONGEST), 0
    worker = threading.Thread(target=module, args=inputs)
    began = time.perf_counter()
    worker.start()
    while worker.is_alive():
        worker.join(0.001)
        ticks += 1
    assert ticks > 100 * (time.perf_counter() - began)


def changed(compiled: Compiled, **values: Any) -> Compiled:
    return dataclasses.replace(compiled, **values)


UNFIT: dict[str, tuple[Callable[[Compiled], Compiled], str]] = {
    "another torch": (lambda it: changed(it, torch="2.0.0"), "it is for torch 2.0.0, this is"),
    "another processor": (lambda it: changed(it, instructions=(*it.instructions, "sve2")), "this processor has no sve2"),
    "another module": (lambda it: changed(it, tensors="sha256:0"), "tensors of other names"),
    "no limits": (lambda it: changed(it, limits={}), "limits and free dimensions are not the same"),
    "other inputs": (lambda it: changed(it, dimensions=it.dimensions[:1]), "zip"),
}


def refused(folder: Path, version: int, told: pytest.LogCaptureFixture, *, why: str) -> None:
    with running(loader=load, **serving(folder, version)) as server:
        assert answer(server)
    assert "the compiled module is not used: " in told.text and why in told.text
    assert "the compiled module is served" not in told.text


@pytest.mark.parametrize("name", UNFIT)
def test_what_does_not_fit_here_is_left(compiled: Path, tmp_path: Path, told: pytest.LogCaptureFixture, name: str) -> None:
    change, why = UNFIT[name]
    folder = copied(compiled, tmp_path)
    refused(folder, amended(folder, change), told, why=why)


@pytest.mark.parametrize("library", [b"", b"not a library", Path(torch.__file__).read_bytes()])
def test_what_is_no_machine_code_of_a_module_is_left(
    compiled: Path, tmp_path: Path, told: pytest.LogCaptureFixture, library: bytes
) -> None:
    folder = copied(compiled, tmp_path)
    refused(folder, amended(folder, library=library), told, why="OSError")


def test_a_library_of_something_else_is_left(compiled: Path, tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
    folder = copied(compiled, tmp_path)
    other = Path(torch.__file__).parent / "lib/libtorch_global_deps.so"
    refused(folder, amended(folder, library=other.read_bytes()), told, why="undefined symbol")


@pytest.mark.parametrize("tamper", [lambda data: data[:-1], lambda data: data[:-1] + b"x", lambda data: data + b"x"])
def test_changed_bytes_are_never_loaded(
    compiled: Path, tmp_path: Path, told: pytest.LogCaptureFixture, tamper: Callable[[bytes], bytes]
) -> None:
    folder = copied(compiled, tmp_path)
    (file,) = (folder / "registry/default/text/2/compiled").iterdir()
    file.write_bytes(tamper(file.read_bytes()))
    refused(folder, 2, told, why="DigestMismatch")


def test_a_file_that_is_gone_is_left(compiled: Path, tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
    folder = copied(compiled, tmp_path)
    shutil.rmtree(folder / "registry/default/text/2/compiled")
    refused(folder, 2, told, why="NotFound")


def test_what_answers_otherwise_is_left(compiled: Path, tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
    folder = copied(compiled, tmp_path)
    published(folder, sign=-1.0)
    refused(folder, amended(folder), told, why="it answers otherwise for 2 rows")


def test_a_deployment_can_do_without(compiled: Path, told: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "0")
    refused(compiled, 2, told, why=f"{ENVIRONMENT} is 0")


def test_what_is_faster_without_stays(compiled: Path, tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
    version, instant = opened(compiled, 2, into=tmp_path), Instant()
    inputs = example(version.manifest.signature, rows=2)
    served, shapes = best(version, plain=plain_of(version), served=instant, example=inputs)
    assert served is instant and not shapes
    assert "it is not faster" in told.text


def test_what_is_not_faster_is_not_published_unless_that_is_wanted(
    compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(compiled, tmp_path)
    version = opened(folder, 2, into=tmp_path)
    found = version.variant.compiled[0]
    library = version.fetch(found.file)
    monkeypatch.setattr(build, "compile_module", lambda *given, **options: (library, found))
    monkeypatch.setattr(apply, "optimize", lambda *given, **options: apply.Optimized(module=Instant(), notes=()))
    monkeypatch.setattr(measure, "SECONDS", 0.01)
    arguments = ["modelmill", "compile", "text@1", "--length", "5", "--registry", registry_at(folder).url]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match=r"not faster.*1 row [0-9.]+ ms instead of [0-9.]+; 8 rows .*--force") as refused:
        cli.main()
    assert "\n" not in str(refused.value)
    assert registry_at(folder).versions("text") == [1, 2] == registry_at(folder).numbers("text")
    monkeypatch.setattr(sys, "argv", [*arguments, "--force"])
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    assert "next: modelmill promote text 3" in capsys.readouterr().out


def test_the_warm_up_runs_the_shapes_that_were_measured(compiled: Path, tmp_path: Path) -> None:
    version = opened(compiled, 2, into=tmp_path)
    _, shapes = best(version, plain=plain_of(version), served=Slow(), example=example(version.manifest.signature, rows=2))
    assert shapes == [(1, 5), (3, 5)]
    seen = []

    def record(a: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(tuple(a.shape))
        return a.sum(dim=1) * k, k + 1

    warm_up(TorchModel(record, signature=MIXED, shapes=shapes), max_rows=2, cpus=1)
    assert {(1, 5), (2, 5)} <= set(seen)


def test_no_compiler_is_imported_or_called_where_models_are_served(compiled: Path) -> None:
    """In a process whose PATH has no program."""
    code = f"""
import logging, sys, tempfile
from pathlib import Path
logging.basicConfig(level=logging.INFO)
from tests.unit.serve.support import service
from tests.unit.serve.test_compiled import serving
from modelmill.observe.metrics import Metrics
from modelmill.serve.loader import load
from modelmill.serve.phases import Phases
load(service(**serving(Path({str(compiled)!r}), 2)), phases=Phases(Metrics()), into=Path(tempfile.mkdtemp()))
assert "torch._inductor.codecache" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**_environment(), "PATH": ""})
    assert done.returncode == 0 and "the compiled module is served" in done.stderr, done.stderr


def _environment() -> dict[str, str]:
    return {"PYTHONPATH": ":".join(path for path in sys.path if path)}
