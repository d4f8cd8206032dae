"""Long-lived programs: started on their own, found again by a later command, stopped by process id only.

A record beside each log says which process is ours: its id, its start time and its command line. All three must still
agree before a signal is sent, so an id that the kernel gave to somebody else is never touched. The environment of each
program also names the record, which finds what an interrupted command started before it could write anything down,
and the container shims that outlive their parent.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_MARK = "MODELMILL_CLUSTER_PROCESS"


class ClusterError(RuntimeError):
    """The cluster or a part of it did not do what was asked; the text says what to look at."""


@contextmanager
def step(name: str) -> Iterator[None]:
    """Prints one line when the step is done, with the seconds that it took."""
    started = time.monotonic()
    yield
    print(f"{name}: {time.monotonic() - started:.1f} s", flush=True)


def wait_until(check: Callable[[], bool], what: str, *, seconds: float, pause: float = 0.1) -> None:
    """Polls until the check holds."""
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            raise ClusterError(f"{what}: not so after {seconds:.0f} s")
        time.sleep(pause)


def http_status(port: int, path: str, *, host: str = "127.0.0.1") -> int | None:
    """What a plain GET is answered with; None where nobody answers."""
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """A process of ours, told apart from any other that had or gets the same id."""

    pid: int
    ticks: int
    argv: list[str]

    def alive(self) -> bool:
        """Whether this very process still runs; a zombie does not."""
        return _ticks(self.pid) == self.ticks and _argv(self.pid) == self.argv

    def signal(self, number: int) -> None:
        """Sends the signal when the process is still ours."""
        if self.alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass


class Programs:
    """The programs whose records and logs lie in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._own: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None) -> None:
        """Starts the program unless it runs already; one that runs with other arguments is restarted."""
        wanted = [str(part) for part in argv]
        found = self.find(name)
        if found is not None and found.argv == wanted:
            return
        self.stop(name)
        for stray in self._marked(name):
            if stray.argv[:1] == wanted[:1]:
                _end(stray, grace=0)
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **(env or {}), _MARK: str(self._record(name))}
        with self.log(name).open("ab") as log:
            child = subprocess.Popen(
                wanted,
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._own[name] = child
        # The kernel shows the new command line a moment after exec has let us go on.
        wait_until(lambda: _argv(child.pid) == wanted or child.poll() is not None, f"{name} started", seconds=5, pause=0.001)
        record = {"pid": child.pid, "ticks": _ticks(child.pid), "argv": wanted}
        beside = self._record(name).with_suffix(".new")
        beside.write_text(json.dumps(record))
        beside.replace(self._record(name))

    def find(self, name: str) -> Started | None:
        """The running process of this name."""
        try:
            found = Started(**json.loads(self._record(name).read_text()))
        except (FileNotFoundError, json.JSONDecodeError, TypeError):
            return None
        return found if found.alive() else None

    def names(self) -> list[str]:
        """The programs that have been started and not stopped."""
        return sorted(path.stem for path in self.folder.glob("*.process"))

    def signal(self, name: str, number: int) -> None:
        """Sends a signal to a running program."""
        found = self.find(name)
        if found is None:
            raise ClusterError(f"{name} is not running; its log: {self.log(name)}")
        found.signal(number)

    def stop(self, name: str, *, grace: float = 10) -> None:
        """Ends the program: politely for `grace` seconds, then for certain."""
        found = self.find(name)
        if found is not None:
            _end(found, grace=grace)
        self._record(name).unlink(missing_ok=True)
        child = self._own.pop(name, None)
        if child is not None:
            child.wait()

    def stop_all(self, *, grace: float = 10) -> None:
        """Ends every program, then whatever carries our mark (container shims) with all that runs below it."""
        for name in self.names():
            self.stop(name, grace=grace)
        for stray in self._marked():
            for process in [*_below(stray.pid), stray]:
                _end(process, grace=0)

    def wait(self, name: str, check: Callable[[], bool], *, seconds: float = 60) -> None:
        """Waits until the program does its work; one that ended instead is told with the end of its log."""
        deadline = time.monotonic() + seconds
        while not check():
            if self.find(name) is None:
                raise ClusterError(f"{name} ended; the end of {self.log(name)}:\n{self.tail(name)}")
            if time.monotonic() > deadline:
                raise ClusterError(f"{name} is not ready after {seconds:.0f} s; the end of its log:\n{self.tail(name)}")
            time.sleep(0.1)

    def log(self, name: str) -> Path:
        """Where the program's output goes."""
        return self.folder / f"{name}.log"

    def tail(self, name: str, *, lines: int = 15) -> str:
        """The end of the program's log."""
        return "\n".join(self.log(name).read_text(errors="replace").splitlines()[-lines:])

    def _record(self, name: str) -> Path:
        return self.folder / f"{name}.process"

    def _marked(self, name: str | None = None) -> list[Started]:
        """Processes whose environment says that they come from this folder, or from this one program."""
        wanted = f"{_MARK}={self._record(name) if name else self.folder}".encode()
        complete = b"\0" if name else b"/"
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                marked = wanted + complete in (entry / "environ").read_bytes()
            except OSError:
                continue
            if marked:
                found += _look(int(entry.name))
        return found


def _end(process: Started, *, grace: float) -> None:
    process.signal(signal.SIGCONT)  # a paused process would not hear the next one
    if grace > 0:
        process.signal(signal.SIGTERM)
        deadline = time.monotonic() + grace
        while process.alive() and time.monotonic() < deadline:
            time.sleep(0.05)
    process.signal(signal.SIGKILL)
    wait_until(lambda: not process.alive(), f"process {process.pid} ({process.argv[0]}) ended", seconds=10, pause=0.02)


def _look(pid: int) -> list[Started]:
    """The process of this id, if there is one."""
    ticks = _ticks(pid)
    return [] if ticks is None else [Started(pid=pid, ticks=ticks, argv=_argv(pid))]


def _below(pid: int) -> list[Started]:
    """All descendants of a process, the deepest first."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [process for child in children for process in [*_below(int(child)), *_look(int(child))]]


def _ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None when there is none, or only a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces and parentheses
    return None if fields[0] in "ZX" else int(fields[19])


def _argv(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []
