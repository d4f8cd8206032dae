"""The other end of a side's process: starts it in the library's environment, asks, and ends it.

One thread for everything, inductor's weights frozen (off by default, and slow without), one compiler process.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.serving.venvs import cache

ROOT = Path(__file__).parents[2]
GRACE_SECONDS = 5.0


class Failed(RuntimeError):
    """A side cannot do what it was asked; the text is the library's own first line."""


class Process:
    def __init__(self, python: Path, module: str, *arguments: str, log: Path) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "runtime", ROOT))),
            "OMP_NUM_THREADS": "1",
            "TORCHINDUCTOR_FREEZING": "1",
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
            "TORCHINDUCTOR_CACHE_DIR": str(cache() / "inductor"),
        }
        with log.open("ab") as stderr:
            self._child = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", str(python), "-m", module, *arguments],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self._log = log

    def ready(self) -> None:
        self._read()

    def ask(self, do: str, **question: object) -> Mapping[str, Any]:
        assert self._child.stdin
        try:
            self._child.stdin.write(json.dumps({"do": do, **question}) + "\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            raise Failed(self._ending()) from None
        return self._read()

    def _read(self) -> Mapping[str, Any]:
        assert self._child.stdout
        line = self._child.stdout.readline()
        if not line:
            raise Failed(self._ending())
        told: Mapping[str, Any] = json.loads(line)
        if "failed" in told:
            raise Failed(told["failed"])
        return told

    def _ending(self) -> str:
        """Why it is gone: the last line it wrote."""
        code = self._child.wait(GRACE_SECONDS)
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return f"it ended with {code}: {lines[-1] if lines else 'without a word'}"

    def close(self) -> None:
        assert self._child.stdin and self._child.stdout
        self._child.stdin.close()
        try:
            self._child.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child.stdout.close()
