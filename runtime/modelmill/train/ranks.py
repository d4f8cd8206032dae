"""The processes of one pod: started together, watched together, ended together.

Each rank is the head of its own process group, so its data loaders end with it. Its output goes to the pod's log,
prefixed by the rank when there are several, and the last lines are kept for the failure message. As PID 1 the
launcher also inherits every orphan in the pod and must reap it.
"""

import collections
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from modelmill.contract import codec, names
from modelmill.contract.report import PEER_LOST, Failure, Progress

TAIL_LINES = 50
_MAX_LINE = 64 << 10
_SETTLE_SECONDS = 0.3
_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
# cgroups of version 2, then of version 1: both have a line `oom_kill N`.
_MEMORY_EVENTS = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where the ranks of one pod stand in the gang."""

    index: int
    workers: int
    local: int

    @property
    def world(self) -> int:
        return self.workers * self.local

    def rank(self, local_rank: int) -> int:
        return self.index * self.local + local_rank


def environment(
    layout: Layout, local_rank: int, *, attempt: int, master: tuple[str, int], run_id: str, folder: Path
) -> dict[str, str]:
    """What torchrun gives a worker, and the two files by which a rank talks to its launcher."""
    rank = str(layout.rank(local_rank))
    added = {
        "RANK": rank,
        "LOCAL_RANK": str(local_rank),
        "WORLD_SIZE": str(layout.world),
        "LOCAL_WORLD_SIZE": str(layout.local),
        "GROUP_RANK": str(layout.index),
        "GROUP_WORLD_SIZE": str(layout.workers),
        "ROLE_NAME": "default",
        "ROLE_RANK": rank,
        "ROLE_WORLD_SIZE": str(layout.world),
        "MASTER_ADDR": master[0],
        "MASTER_PORT": str(master[1]),
        "TORCHELASTIC_RESTART_COUNT": str(attempt),
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_RUN_ID": run_id,
        # False: rank 0 opens the store itself; there is no agent that did.
        "TORCHELASTIC_USE_AGENT_STORE": "False",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
        names.ENV_PROGRESS_FILE: str(folder / f"progress-{local_rank}.json"),
        names.ENV_ERROR_FILE: str(folder / f"error-{local_rank}.json"),
    }
    threads = _threads(layout.local)
    if threads is not None and "OMP_NUM_THREADS" not in os.environ:
        added["OMP_NUM_THREADS"] = str(threads)
    return {**os.environ, **added}


def _threads(local: int) -> int | None:
    """torchrun's default: 1 with several ranks. One rank gets what its pod may use; torch would count the node's cores."""
    if local > 1:
        return 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = _CPU_MAX.read_text().split()
        return max(1, round(int(quota) / int(period)))
    return None


class Rank:
    """One process and the tail of its output."""

    def __init__(self, command: Sequence[str], *, rank: int, env: Mapping[str, str], cwd: str | None, prefix: str) -> None:
        self.rank = rank
        self.progress_file = Path(env[names.ENV_PROGRESS_FILE])
        self.error_file = Path(env[names.ENV_ERROR_FILE])
        for stale in (self.progress_file, self.error_file):
            stale.unlink(missing_ok=True)
        self._tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
        self._ooms = _oom_kills()
        self.process = subprocess.Popen(
            command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self._reader = threading.Thread(target=self._copy, args=(self.process.stdout, prefix), daemon=True)
        self._reader.start()

    def _copy(self, pipe: IO[bytes], prefix: str) -> None:
        for line in iter(lambda: pipe.readline(_MAX_LINE), b""):
            text = line.decode(errors="replace").rstrip("\n")
            self._tail.append(text[-500:])
            # One write a line, so that the lines of two ranks do not mix.
            sys.stdout.write(f"{prefix}{text}\n")
            sys.stdout.flush()
        pipe.close()

    def terminate(self) -> None:
        """Asks the rank alone: its data loaders must live until it has saved a checkpoint."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the rank and all it started, also what outlived it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def progress(self) -> tuple[Progress, int] | None:
        """What the rank wrote last, and when (st_mtime_ns)."""
        try:
            written = self.progress_file.stat().st_mtime_ns
            return codec.loads(Progress, self.progress_file.read_bytes()), written
        except (OSError, codec.ContractError):
            return None

    def failure(self) -> Failure:
        """Why this dead rank died: its own word, or the exit code and the tail of its output."""
        self._reader.join(timeout=1.0)
        code = self.process.returncode
        with contextlib.suppress(OSError, codec.ContractError):
            told = codec.loads(Failure, self.error_file.read_bytes())
            return Failure(reason=told.reason, message=told.message, fatal=told.fatal, rank=self.rank, exit_code=code)
        reason, sentence = self._ending(code)
        message = f"rank {self.rank} {sentence}. Its last lines:\n" if self._tail else f"rank {self.rank} {sentence}"
        tail = "\n".join(self._tail)
        fatal = code == names.EXIT_FATAL
        return Failure(
            reason=reason, message=message + tail[-(1990 - len(message)) :], fatal=fatal, rank=self.rank, exit_code=code
        )

    def _ending(self, code: int) -> tuple[str, str]:
        if code == -signal.SIGKILL:
            advice = "raise resources.limits.memory"
            if _oom_kills() > self._ooms:
                return "OOMKilled", f"was killed because the pod ran out of memory: {advice}"
            return "RankKilled", f"was killed by signal 9: out of memory is likely; {advice}"
        if code < 0:
            return "RankKilled", f"was killed by signal {-code} ({signal.strsignal(-code)})"
        return "RankExited", f"exited with code {code}"


class Ranks:
    """All ranks of this pod in one attempt."""

    def __init__(self, ranks: Sequence[Rank]) -> None:
        self._ranks = ranks

    def succeeded(self) -> bool:
        return all(rank.process.poll() == 0 for rank in self._ranks)

    def failure(self) -> Failure | None:
        """The failure to tell, once a rank has died; None while none has."""
        if not self._dead():
            return None
        # Ranks that die of the same cause leave their word within moments; one that only lost a peer is not the cause.
        time.sleep(_SETTLE_SECONDS)
        failures = [rank.failure() for rank in self._dead()]
        return min(failures, key=lambda failure: (failure.reason == PEER_LOST, not failure.fatal))

    def _dead(self) -> list[Rank]:
        return [rank for rank in self._ranks if rank.process.poll() not in (None, 0)]

    def progress(self) -> tuple[Progress, int] | None:
        """The newest word of any rank."""
        return max(filter(None, (rank.progress() for rank in self._ranks)), key=lambda seen: seen[1], default=None)

    def end(self, *, grace_seconds: float) -> None:
        """SIGTERM, then SIGKILL once the grace is over."""
        for rank in self._ranks:
            rank.terminate()
        deadline = time.monotonic() + grace_seconds
        while time.monotonic() < deadline and any(rank.process.poll() is None for rank in self._ranks):
            time.sleep(0.05)
        for rank in self._ranks:
            rank.kill()

    def reap_orphans(self) -> None:
        """Ends the zombies that fell to PID 1; a rank's own status is left for its Popen."""
        own = {rank.process.pid for rank in self._ranks}
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None or ended.si_pid in own:
                return
            with contextlib.suppress(ChildProcessError):
                os.waitpid(ended.si_pid, os.WNOHANG)


def _oom_kills() -> int:
    for events in _MEMORY_EVENTS:
        with contextlib.suppress(OSError, ValueError):
            fields = dict(line.split() for line in events.read_text().splitlines())
            return int(fields.get("oom_kill", 0))
    return 0
