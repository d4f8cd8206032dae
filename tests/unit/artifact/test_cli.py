"""The `modelmill` command: short answers, one-line errors, nothing heavy imported."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import nn

from modelmill.artifact import publish
from modelmill.cli import __main__ as cli
from tests.unit.artifact.helpers import job_in, published, registry_at

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process; its output, or its error with `fails`."""

    def command(*arguments: str, fails: bool = False) -> str:
        monkeypatch.setattr(sys, "argv", ["modelmill", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        if fails:
            assert isinstance(ended.value.code, str), "a text: Python prints it and exits with 1"
            return ended.value.code
        assert ended.value.code == 0
        return capsys.readouterr().out

    monkeypatch.setenv("MODELMILL_REGISTRY", f"file://{tmp_path}/registry")
    monkeypatch.setenv("MODELMILL_NAMESPACE", "team")
    return command


def test_versions_shows_figures_sizes_and_channels(run: Run, tmp_path: Path) -> None:
    for uid in ("a", "b"):
        publish.run(job_in(tmp_path, uid=uid))
    table = run("versions", "digits")
    first = next(line for line in table.splitlines() if line.split()[:1] == ["2"])
    for part in ("stable", "train-digits", "dense", "4.9 KiB", "accuracy 0.9800", "0.50 ms"):
        assert part in first
    rows = json.loads(run("versions", "digits", "-o", "json"))
    assert [(row["version"], row["variant"], row["channels"]) for row in rows] == [
        (2, "dense", ["stable"]),
        (2, "int8", ["stable"]),
        (1, "dense", []),
        (1, "int8", []),
    ]
    assert rows[1]["metrics"] == {"accuracy": 0.975}
    assert rows[1]["bytes"] == 1300
    assert json.loads(run("models", "-o", "json")) == [{"model": "digits", "newest": 2, "versions": 2, "channels": {"stable": 2}}]
    assert "stable=2" in run("models")


def test_promote_and_rollback_tell_where_the_channel_points(run: Run, tmp_path: Path) -> None:
    registry = registry_at(f"file://{tmp_path}/registry")
    for _ in range(2):
        published(registry)
    assert run("promote", "digits", "1") == "channel stable of model digits points to version 1\n"
    assert "points to version 2 (it pointed to version 1)" in run("promote", "digits", "2")
    assert "points to version 1 (it pointed to version 2)" in run("rollback", "digits")
    assert registry.require_channel("digits", "stable").version == 1
    assert "channel canary" in run("promote", "digits", "2", "--channel", "canary")


def test_import_publishes_from_the_shell(run: Run, tmp_path: Path) -> None:
    job_in(tmp_path)
    save_file(nn.Linear(4, 2).state_dict(), tmp_path / "w.safetensors")
    options = ["--weights", f"{tmp_path}/w.safetensors", "--recipe", f"{tmp_path}/recipe", "--entrypoint", "recipe:Tiny"]
    told = run("import", "tiny", *options)
    assert "published version 1 of model tiny (sha256:" in told
    assert "next: modelmill promote tiny 1" in told
    assert "next" not in run("import", "tiny", *options, "--channel", "stable")
    assert registry_at(f"file://{tmp_path}/registry").require_channel("tiny", "stable").version == 2


def test_errors_are_one_line_that_says_what_there_is(run: Run, tmp_path: Path) -> None:
    published(registry_at(f"file://{tmp_path}/registry"))
    cases = {
        ("versions", "cifar"): "model 'cifar' in file://",
        ("promote", "digits", "7"): "has no version 7; it has 1",
        ("rollback", "digits"): "channel 'stable' of model 'digits' has no version yet",
        ("models", "--registry", "gs://x"): "file:///path or s3://",
        ("import", "tiny"): "give weights, a recipe's folder",
    }
    for arguments, words in cases.items():
        told = run(*arguments, fails=True)
        assert told.startswith("modelmill: ")
        assert words in told
        assert "\n" not in told


def test_a_folder_is_a_registry_too(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published(registry_at(f"file://{tmp_path}/registry"))
    monkeypatch.chdir(tmp_path)
    assert "digits" in run("models", "--registry", "registry")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, runpy; sys.argv = ['modelmill', '--help']\n"
        "try: runpy.run_module('modelmill.cli', run_name='__main__')\n"
        "except SystemExit: print(sorted({'torch', 'numpy', 'rich', 's3fs', 'fsspec'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.splitlines()[-1] == "[]"
