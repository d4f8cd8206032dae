"""Server processes on a core of their own, found again by a mark in their environment, so that none outlives a run.

All servers of a workload are started once; the one that is measured runs, the others are stopped (SIGSTOP) meanwhile.
"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

MARK = "MODELMILL_BENCH_PROCESS"
GRACE_SECONDS = 5.0
TICKS = os.sysconf("SC_CLK_TCK")


class Failed(RuntimeError):
    """A server did not do what was asked; the text ends with its log's end."""


class Process:
    def __init__(
        self, name: str, command: Sequence[str | Path], *, core: int, env: Mapping[str, str], folder: Path, talks: bool = False
    ) -> None:
        """`talks`: its input and output are pipes."""
        self.name = name
        self._mark = f"{os.getpid()}-{name}"
        self._log = folder / f"{name}.log"
        pipe = subprocess.PIPE if talks else subprocess.DEVNULL
        with self._log.open("ab") as log:
            self.child = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "taskset", "-c", str(core), *map(str, command)],
                cwd=folder,
                env={**os.environ, **env, MARK: self._mark},
                stdin=pipe,
                stdout=pipe if talks else log,
                stderr=log,
                text=True,
                start_new_session=True,  # a Ctrl-C reaches this program only, which then ends the servers
            )

    def pids(self) -> list[int]:
        """The whole tree: what bears the mark, also when it left its parent, and whatever those started."""
        found = {pid for pid, mark in _marked() if mark == self._mark}
        parents = _parents()
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return sorted(found)

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        for pid in self.pids():
            _kill(pid, number)

    def alive(self) -> bool:
        return self.child.poll() is None

    def ask(self, line: str = "") -> str:
        """Of one that talks: its next line, after this one, if any, was said. Raises Failed."""
        assert self.child.stdin and self.child.stdout
        self.child.stdin.write(line)
        self.child.stdin.flush()
        answer: str = self.child.stdout.readline()
        if not answer:
            raise self.failed("it ended without an answer")
        return answer

    def stop(self) -> None:
        try:
            self._signal(signal.SIGTERM)
            self.resume()
            end = time.monotonic() + GRACE_SECONDS
            while self.pids() and time.monotonic() < end:
                self.child.poll()
                time.sleep(0.05)
        finally:  # also after a second Ctrl-C
            self._signal(signal.SIGKILL)
            self.child.wait()

    def cpu_seconds(self) -> float:
        return sum(_cpu_seconds(pid) for pid in self.pids())

    def memory_mib(self) -> float:
        """Proportional set size: what processes of the tree share is counted once."""
        return sum(_pss_kib(pid) for pid in self.pids()) / 1024

    def failed(self, what: str) -> Failed:
        lines = self._log.read_text(errors="replace").splitlines()[-15:]
        return Failed("\n".join((f"{self.name}: {what}; the end of its log:", *lines)))


def settle(process: Process, *, seconds: float = 30.0) -> None:
    """Until the server has nothing left to do: clients of a warm-up leave requests behind."""
    end = time.monotonic() + seconds
    before = process.cpu_seconds()
    while time.monotonic() < end:
        time.sleep(0.1)
        now = process.cpu_seconds()
        if now - before < 0.03:
            return
        before = now


def machine_cpu_seconds() -> float:
    """Used by all processes on all cores, or taken by the host: who else was at work shows beside a measurement."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS


def end_leftovers() -> None:
    """Servers of an earlier run that was killed before it could stop them."""
    for pid, mark in _marked():
        if not Path(f"/proc/{mark.partition('-')[0]}").exists():
            _kill(pid, signal.SIGKILL)


def _marked() -> list[tuple[int, str]]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                variables = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            prefix = f"{MARK}=".encode()
            found += [(int(entry.name), v[len(prefix) :].decode()) for v in variables if v.startswith(prefix)]
    return found


def _parents() -> dict[int, int]:
    return {int(e.name): int(stat[1]) for e in Path("/proc").iterdir() if e.name.isdigit() and (stat := _stat(int(e.name)))}


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third, the state; empty when there is no such process."""
    try:
        # The name before them may hold spaces and parentheses.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _cpu_seconds(pid: int) -> float:
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS if fields else 0.0


def _pss_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
