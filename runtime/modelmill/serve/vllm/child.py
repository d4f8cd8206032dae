"""vLLM's process: its output passed on line by line, its end with its last words.

It leads a session of its own: a Ctrl-C is for the server, which drains first, and what vLLM itself has started goes with it.
"""

import asyncio
import os
import re
import signal
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from modelmill.failures import Fault

KEPT_LINES = 400
"""Of its output: a failed start ends with long tracebacks of several processes."""
LAST_LINES = 3
MOST_ERRORS = 4
MAX_WORDS = 1500
"""Characters, so that they fit into a termination message."""
MAX_LINE_BYTES = 1 << 20
STOP_SECONDS = 10.0
_ERROR = re.compile(r"[\w.]*(?:Error|Exception): \S.*")
_NO_ERROR = re.compile(r"\b(?:DEBUG|INFO|WARNING)\b")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class EngineDied(Fault):
    """vLLM has ended by itself."""

    reason = "VllmDied"
    fatal = False


class Child:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._reader = asyncio.get_running_loop().create_task(self._read())

    @staticmethod
    async def start(program: str, arguments: Sequence[str], *, environment: Mapping[str, str], folder: Path) -> "Child":
        """`folder` is where it runs."""
        process = await asyncio.create_subprocess_exec(
            program,
            *arguments,
            env=dict(environment),
            cwd=folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            limit=MAX_LINE_BYTES,
        )
        return Child(process)

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def _read(self) -> None:
        assert self._process.stdout
        while line := await self._line(self._process.stdout):
            sys.stderr.write(line)
            self._lines.append(_COLOUR.sub("", line).rstrip())

    async def _line(self, stream: asyncio.StreamReader) -> str:
        try:
            return (await stream.readline()).decode(errors="replace")
        except ValueError:  # longer than the limit: that much of it was dropped
            return "...\n"

    async def ended(self) -> EngineDied:
        """Waits until it has ended, and says why."""
        code = await self._process.wait()
        # What it started may hold the pipe open.
        await asyncio.wait((self._reader,), timeout=1.0)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        advice = "; raise spec.pod.resources.limits.memory if it was the kernel" if code == -signal.SIGKILL else ""
        return EngineDied(f"vLLM {how}{advice}. Its last words: {last_words(tuple(self._lines))}")

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL for whatever is left of its session after a while."""
        if self.alive:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
            except TimeoutError:
                pass
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        await self._process.wait()
        self._reader.cancel()


def last_words(lines: Sequence[str]) -> str:
    """The errors that the lines tell of, each once, and the last lines: the cause is told first, the rest follows from it."""
    errors = dict.fromkeys(match[0] for line in lines if not _NO_ERROR.search(line) and (match := _ERROR.search(line)))
    causes = [*errors][-MOST_ERRORS:]
    words = [*causes, *(line for line in lines[-LAST_LINES:] if line and not any(cause in line for cause in causes))]
    return "\n".join(words)[:MAX_WORDS] or "none"
