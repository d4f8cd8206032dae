"""The load: `wrk`, one thread, keep-alive connections in a closed loop, on a core of its own.

A closed loop sends the next request when the last one was answered. Latencies are wrk's, over all answers, also
refusals; where an answer took much longer than the mean, wrk adds the samples that its waiting connection did not take.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("rotate.lua")


class Broken(RuntimeError):
    """The load could not be sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    rps: float
    """Answers with a good status a second."""
    p50: float
    """Milliseconds, as p99."""
    p99: float
    failed: int
    """Answers with another status, broken connections, time-outs."""
    busy: float
    """The share of its core that wrk used: near 1 it was the load that could not do more."""
    others: float = 0.0
    """Cores used by neither wrk nor the server: near 0 nobody disturbed."""


def require() -> None:
    for program in ("wrk", "taskset", "setpriv"):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is missing: install it (Debian's packages wrk and util-linux), then call again")
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("two cores are needed: one for the server, one for the load")


def write_requests(folder: Path, requests: Sequence[bytes]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for i, content in enumerate(requests):
        (folder / f"{i:03}.http").write_bytes(content)


def run(folder: Path, *, port: int, connections: int, seconds: int, core: int, stamp: bool) -> Load:
    """`stamp`: the rate ends with the last answer (see rotate.lua). Raises Broken."""
    arguments = [str(folder), str(len(list(folder.iterdir()))), *(["stamp"] if stamp else [])]
    options = ("-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s", "-s", str(SCRIPT))
    command = ("taskset", "-c", str(core), "wrk", *options, f"http://127.0.0.1:{port}/", "--", *arguments)
    began, used = time.monotonic(), _children_seconds()
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise Broken(f"wrk: {(ended.stderr or ended.stdout).strip()}")
    return told(ended.stdout.splitlines()[-1], busy=(_children_seconds() - used) / (time.monotonic() - began))


def told(line: str, *, busy: float) -> Load:
    """What a line says that rotate.lua, or a program like it, has written."""
    read: Mapping[str, float] = json.loads(line)
    return Load(
        rps=(read["answers"] - read["refused"]) / read["seconds"],
        p50=read["p50"],
        p99=read["p99"],
        failed=int(read["refused"] + read["broken"]),
        busy=busy,
    )


def _children_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system
