"""Runs the `modelmill` command in this process."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from modelmill.cli import __main__ as cli


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture
def modelmill(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def command(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["modelmill", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        told, code = capsys.readouterr(), ended.value.code
        # A text is what Python prints before it exits with 1.
        return Done(
            code=code if isinstance(code, int) else 1, out=told.out, err=told.err + (code if isinstance(code, str) else "")
        )

    monkeypatch.delenv("MODELMILL_REGISTRY", raising=False)
    return command
