"""PID 1 of a training pod: owns the ranks, reports to the operator, does what it replies.

    waiting --go--> running --all ranks exit 0--> succeeded, exit 0
       ^               |
       |               +--a rank dies--> failed --fatal: told once--> exit 64
       +------a higher attempt-----------+

The launcher knows nothing of the other pods: the barrier is the operator's `go`, the rendezvous is the address in its
reply, and a restart of the gang is a higher attempt number. The pod, its GPUs and its scratch space survive restarts.
Only the standard library is imported, so a pod is ready for the barrier a moment after its container starts.
"""

import dataclasses
import os
import random
import shutil
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from modelmill.contract import codec, names, report, result
from modelmill.contract.jobfile import JobFile
from modelmill.contract.report import Failure, Progress, Reply, Report
from modelmill.contract.result import StageResult
from modelmill.train import ranks as processes
from modelmill.train.ranks import Layout, Rank, Ranks
from modelmill.train.reporter import Reporter

TICK_SECONDS = 0.1
RESTART_GRACE_SECONDS = 3.0
"""A gang that lost a rank cannot save anything: its survivors wait in a collective and are ended soon."""
STOP_GRACE_SECONDS = 25.0
"""Within the usual 30 s of a pod: time to finish the step and write a checkpoint."""
FATAL_TOLD_SECONDS = 30.0
SUCCESS_TOLD_SECONDS = 3.0
EXIT_STOPPED = 143
# Below Linux's range for outgoing connections, so that none takes the port before rank 0 listens.
_PORTS = range(20000, 32000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a pod gives its launcher."""

    index: int
    attempt: int
    address: str
    token_file: Path = Path(names.PATH_TOKEN)
    termination_file: Path = Path(names.PATH_TERMINATION)
    scratch: Path = Path("/tmp/modelmill")


class Launcher:
    def __init__(self, job: JobFile, pod: Surroundings) -> None:
        if job.report is None:
            raise codec.ContractError("report: missing; a training pod needs an operator to report to")
        self._job, self._pod = job, pod
        self._layout = Layout(index=pod.index, workers=job.gang.workers, local=job.gang.processes_per_worker or _gpus() or 1)
        # One immutable report is the whole state: the reporter's thread can never see half a change.
        self._now = Report(
            namespace=job.namespace, job=job.name, uid=job.uid, index=pod.index, attempt=pod.attempt, state=report.WAITING,
            address=pod.address,
        )  # fmt: skip
        self._since = time.monotonic()
        self._told: Report | None = None
        self._ranks: Ranks | None = None
        self._used_ports: set[int] = set()
        # The progress file's time, and when we saw it change.
        self._progress_seen: tuple[int, float] | None = None
        # A plain flag: setting an Event in a signal handler can deadlock with a wait that it interrupts.
        self._stopped = False
        self._reporter = Reporter(job.report, token_file=pod.token_file, latest=lambda: self._now, log=_log)

    def run(self) -> int:
        """Until the work is done or given up; the pod's exit code."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        self._wait_for(self._pod.attempt)
        self._reporter.start()
        try:
            outcome = self._supervise()
        finally:
            if self._ranks is not None:
                self._ranks.end(grace_seconds=0)
            self._reporter.close()
        result.write(outcome, path=str(self._pod.termination_file))
        if outcome.ok:
            return names.EXIT_OK
        return names.EXIT_FATAL if outcome.fatal else EXIT_STOPPED

    def _supervise(self) -> StageResult:
        while True:
            for answered, reply in self._replies():
                self._told = answered
                if reply.stop and self._now.state == report.SUCCEEDED:
                    return self._result(ok=True)
                if reply.stop:
                    return self._stop("the operator asked to stop")
                self._obey(reply)
            if self._stopped:
                return self._stop("the pod is being ended")
            self._watch()
            if (outcome := self._outcome()) is not None:
                return outcome
            time.sleep(TICK_SECONDS)

    def _replies(self) -> list[tuple[Report, Reply]]:
        waiting = self._reporter.replies
        return [waiting.get() for _ in range(waiting.qsize())]

    def _obey(self, reply: Reply) -> None:
        if reply.attempt > self._now.attempt:
            if self._ranks is not None:
                self._ranks.end(grace_seconds=RESTART_GRACE_SECONDS)
                self._ranks = None
            self._wait_for(reply.attempt)
        elif reply.attempt == self._now.attempt and reply.go and self._now.state == report.WAITING:
            if reply.master_address is None or reply.master_port is None:
                _log("the operator said go without a master address; waiting on")
                return
            self._start((reply.master_address, reply.master_port))

    def _wait_for(self, attempt: int) -> None:
        self._progress_seen = None
        self._enter(report.WAITING, attempt=attempt, port=self._fresh_port(), failure=None, progress=None)

    def _start(self, master: tuple[str, int]) -> None:
        local, world = self._layout.local, self._layout.world
        _log(f"attempt {self._now.attempt}: starting {local} of {world} ranks, master {master[0]}:{master[1]}")
        shutil.rmtree(self._pod.scratch, ignore_errors=True)
        self._pod.scratch.mkdir(parents=True)
        command = [sys.executable, "-u", *(self._job.script or ("-m", "modelmill.train.main"))]
        started: list[Rank] = []
        self._ranks = Ranks(started)
        for local_rank in range(local):
            env = processes.environment(
                self._layout, local_rank, attempt=self._now.attempt, master=master, run_id=self._job.uid, folder=self._pod.scratch
            )
            if not self._job.script:
                # DDP would warn that it looks for unused parameters, which our strategy asks for on purpose.
                env.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
            rank = self._layout.rank(local_rank)
            prefix = f"[rank {rank}] " if local > 1 else ""
            started.append(Rank(command, rank=rank, env=env, cwd=self._job.recipe_path, prefix=prefix))
        self._enter(report.RUNNING)

    def _watch(self) -> None:
        if self._ranks is None or self._now.state != report.RUNNING:
            return
        self._ranks.reap_orphans()
        failure = self._ranks.failure()
        if failure is None and self._ranks.succeeded():
            self._follow_progress(self._ranks)
            self._enter(report.SUCCEEDED)
            return
        if failure is None:
            failure = self._follow_progress(self._ranks)
        if failure is not None:
            self._ranks.end(grace_seconds=0)
            self._enter(report.FAILED, failure=failure)
            _log(f"attempt {self._now.attempt} failed: {failure.reason}: {failure.message}")

    def _follow_progress(self, ranks: Ranks) -> Failure | None:
        """Takes over the newest progress; a failure once there has been none for too long."""
        seen, now = ranks.progress(), time.monotonic()
        if seen is None:
            return None
        if self._progress_seen is None or self._progress_seen[0] != seen[1]:
            self._now = dataclasses.replace(self._now, progress=seen[0])
            self._progress_seen = (seen[1], now)
        still = now - self._progress_seen[1]
        if still <= self._job.stall_timeout_seconds:
            return None
        return Failure(
            reason="Stalled",
            message=f"no progress for {still:.0f} s after step {seen[0].step}: a rank hangs, or a step takes longer than "
            f"the stall timeout of {self._job.stall_timeout_seconds:.0f} s",
        )

    def _outcome(self) -> StageResult | None:
        """The stage's result, once this launcher has nothing left to do."""
        now, told = self._now, self._told
        waited = time.monotonic() - self._since
        delivered = told is not None and (told.state, told.attempt) == (now.state, now.attempt)
        if now.state == report.SUCCEEDED and (delivered or waited > SUCCESS_TOLD_SECONDS):
            return self._result(ok=True)
        failure = now.failure
        if failure is not None and failure.fatal and (delivered or waited > FATAL_TOLD_SECONDS):
            return self._result(ok=False, reason=failure.reason, message=failure.message, fatal=True)
        return None

    def _stop(self, why: str) -> StageResult:
        _log(f"stopping: {why}")
        if self._ranks is not None:
            self._ranks.end(grace_seconds=STOP_GRACE_SECONDS)
        return self._result(ok=False, reason="Stopped", message=why)

    def _result(self, *, ok: bool, reason: str | None = None, message: str | None = None, fatal: bool = False) -> StageResult:
        progress = self._now.progress or Progress(step=0)
        return StageResult(
            stage="train", ok=ok, reason=reason, message=message, fatal=fatal, steps=progress.step, loss=progress.loss,
            details={"samplesPerSecond": progress.samples_per_second} if progress.samples_per_second else {},
        )  # fmt: skip

    def _enter(self, state: str, **changes: Any) -> None:
        self._now, self._since = dataclasses.replace(self._now, state=state, **changes), time.monotonic()
        self._reporter.wake()

    def _fresh_port(self) -> int:
        """Free now, and never used by an earlier attempt: its connections may linger."""
        for port in random.sample(_PORTS, k=200):
            if port in self._used_ports:
                continue
            with socket.socket() as probe:
                try:
                    probe.bind(("", port))
                except OSError:
                    continue
            self._used_ports.add(port)
            return port
        raise OSError("no free port for rank 0 among 200 tried between 20000 and 31999")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stopped = True


def _gpus() -> int:
    """GPUs of this pod, without asking torch: what the device plugin mounted."""
    visible = os.environ.get("NVIDIA_VISIBLE_DEVICES", "")
    if visible in ("none", "void"):
        return 0
    return sum(1 for device in Path("/dev").glob("nvidia[0-9]*"))


def _log(text: str) -> None:
    print(f"launcher: {text}", flush=True)


def main() -> int:
    try:
        job = codec.loads(JobFile, os.environ.get(names.ENV_JOB, ""))
        pod = Surroundings(
            index=int(os.environ.get(names.ENV_INDEX, "0")),
            attempt=int(os.environ.get(names.ENV_ATTEMPT, "0")),
            address=os.environ.get(names.ENV_POD_IP, "127.0.0.1"),
        )
        return Launcher(job, pod).run()
    except codec.ContractError as error:
        _log(f"{names.ENV_JOB}: {error}")
        result.write(StageResult(stage="train", ok=False, reason="BadJobFile", message=str(error), fatal=True))
        return names.EXIT_FATAL


if __name__ == "__main__":
    sys.exit(main())
