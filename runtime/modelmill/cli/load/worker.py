"""The process that sends: reads a plan from standard input, tells a report each second on standard output.

It does nothing else, so that nothing of its own is measured. SIGINT ends the run early, with its last report.
"""

import asyncio
import gc
import signal
import sys

import uvloop

from modelmill.cli.load.plan import Plan, Report
from modelmill.cli.load.run import Run
from modelmill.contract import codec

REPORT_SECONDS = 1.0


async def run(plan: Plan) -> None:
    load = Run(plan)
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, load.stop)
    teller = asyncio.create_task(_tell_each_second(load))
    await load.go()
    teller.cancel()
    _tell(load.report(final=True))


async def _tell_each_second(load: Run) -> None:
    while True:
        await asyncio.sleep(REPORT_SECONDS)
        _tell(load.report())


def _tell(report: Report) -> None:
    print(report.encode(), flush=True)


if __name__ == "__main__":
    plan = codec.loads(Plan, sys.stdin.buffer.read())
    # Nothing here makes cycles, and a collection is a pause in everybody's latency.
    gc.disable()
    uvloop.run(run(plan))
