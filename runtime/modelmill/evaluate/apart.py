"""Measures in a process of its own, so that a variant that crashes, runs out of memory or leaves threads behind takes
nothing with it, and so that two versions of a recipe never meet in one interpreter.

The processes are forked from a server that has torch imported and nothing else done: a fork costs milliseconds where
a fresh interpreter costs seconds. The process that asks never imports torch itself.
"""

import json
import multiprocessing
import signal
import tempfile
from multiprocessing.context import ForkServerContext
from pathlib import Path

from modelmill import failures
from modelmill.contract import codec
from modelmill.evaluate.task import Measured, Task

MAX_REASON = 600


class Failed(Exception):
    """The measurement did not come to an end; the message is a sentence for people."""


def measure_apart(task: Task) -> Measured:
    """The figures, or `Failed`."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        process = _context().Process(target=_child, args=(task, str(answer)))
        process.start()
        process.join()
        if not answer.exists():
            raise Failed(_death(process.exitcode))
        found = json.loads(answer.read_text())
    if "failure" in found:
        raise Failed(str(found["failure"])[:MAX_REASON])
    return codec.from_dict(Measured, found)


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["modelmill.evaluate.measure"])
    return context


def _child(task: Task, answer: str) -> None:
    try:
        from modelmill.evaluate.measure import measure

        found = codec.to_dict(measure(task))
    except Exception as error:
        failure = failures.describe(error)
        print(f"{failure.reason}: {failure.message}", flush=True)
        found = {"failure": f"{failure.reason}: {failure.message.partition(chr(10))[0]}"}
    beside = Path(f"{answer}.part")
    beside.write_text(json.dumps(found))
    beside.rename(answer)


def _death(exit_code: int | None) -> str:
    if exit_code == -signal.SIGKILL:
        return "the process that measured it was killed: out of memory is likely; raise resources.limits.memory"
    end = f"signal {signal.Signals(-exit_code).name}" if exit_code is not None and exit_code < 0 else f"exit code {exit_code}"
    return f"the process that measured it ended with {end} and no result; the log tells what it did last"
