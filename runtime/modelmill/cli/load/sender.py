"""The process that sends, seen from the command: started with a plan, read report by report."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from modelmill.cli.load.plan import Plan, Report
from modelmill.contract import codec
from modelmill.failures import Fault

COMMAND = (sys.executable, "-m", "modelmill.cli.load.worker")


class SenderFailed(Fault):
    """The process ended by itself."""

    reason = "SenderFailed"


def reports(plan: Plan) -> Iterator[Report]:
    """One a second, and the last when all answers have come. Ctrl-C ends the run early, with its last report."""
    with subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process, _interrupts_to(process):
        try:
            yield from _read(process, plan)
        finally:
            process.kill()


def _read(process: "subprocess.Popen[str]", plan: Plan) -> Iterator[Report]:
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(codec.dumps(plan))
        process.stdin.close()
    except BrokenPipeError:
        pass  # it has said why on standard error
    done = False
    for line in process.stdout:
        report = Report.decode(line)
        done = report.final
        yield report
    if not done:
        raise SenderFailed(f"the process that sends requests ended with code {process.wait()} before the run was over")


@contextmanager
def _interrupts_to(process: "subprocess.Popen[str]") -> Iterator[None]:
    before = signal.signal(signal.SIGINT, lambda *_: process.send_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
