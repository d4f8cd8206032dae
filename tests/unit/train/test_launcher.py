"""The launcher against a fake operator, with ranks that are tiny scripts: the protocol alone, no torch."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelmill.contract import codec, names, result
from modelmill.contract.jobfile import Gang, JobFile, ReportTo
from modelmill.contract.result import StageResult
from tests.unit.train.operator import FakeOperator


class Pods:
    """The launchers of one gang."""

    def __init__(self, folder: Path, *, workers: int, processes: int = 1, stall_timeout_seconds: float = 60.0) -> None:
        self.folder, self.operator = folder, FakeOperator(workers=workers)
        (folder / "token").write_text("let-me-in\n")
        self._job = JobFile(
            stage="train", namespace="default", name="job", uid="uid-1", model="m", registry=f"file://{folder}",
            recipe_path=str(folder), script=("rank.py",), gang=Gang(workers=workers, processes_per_worker=processes),
            report=ReportTo(url=self.operator.url, interval_seconds=0.05), stall_timeout_seconds=stall_timeout_seconds,
        )  # fmt: skip
        self._started: dict[int, subprocess.Popen[str]] = {}

    def script(self, text: str) -> None:
        (self.folder / "rank.py").write_text(textwrap.dedent(text))

    def start(self, *indexes: int) -> None:
        env = {**os.environ, names.ENV_JOB: codec.dumps(self._job)}
        for index in indexes:
            self._started[index] = subprocess.Popen(
                [sys.executable, "-m", "tests.unit.train.pod", str(self.folder), str(index)],
                env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip

    def end(self, index: int) -> tuple[int, StageResult, str]:
        """Exit code, result and log of a launcher that is expected to end by itself."""
        log, _ = self._started[index].communicate(timeout=20)
        found = result.read((self.folder / f"result-{index}.json").read_text())
        assert found is not None
        return self._started[index].returncode, found, log

    def signal(self, index: int, number: int) -> None:
        self._started[index].send_signal(number)

    def pid(self, index: int) -> int:
        return self._started[index].pid

    def close(self) -> None:
        self.operator.stop = True
        for launcher in self._started.values():
            if launcher.poll() is None:
                launcher.terminate()
            launcher.communicate(timeout=30)
        self.operator.close()


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    gang = Pods(tmp_path, workers=2)
    yield gang
    gang.close()


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pods]:
    single = Pods(tmp_path, workers=1, stall_timeout_seconds=1.0)
    yield single
    single.close()


def test_two_pods_start_together_in_torchruns_environment(tmp_path: Path) -> None:
    pods = Pods(tmp_path, workers=2, processes=2)
    try:
        pods.script("""
            import json, os
            with open(f"env-{os.environ['RANK']}.json", "w") as stream:
                json.dump(dict(os.environ), stream)
            print("hello from", os.environ["RANK"])
        """)
        pods.start(0)
        pods.operator.wait("one pod waits", lambda seen: seen[0].state == "waiting")
        time.sleep(0.3)
        assert not list(tmp_path.glob("env-*.json")), "a rank started before the gang was complete"
        pods.start(1)
        for index in (0, 1):
            code, found, log = pods.end(index)
            assert (code, found.ok) == (0, True)
            assert f"[rank {2 * index + 1}] hello from {2 * index + 1}" in log
        assert pods.operator.tokens == {"Bearer let-me-in"}
        envs = [json.loads((tmp_path / f"env-{rank}.json").read_text()) for rank in range(4)]
        told = ("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "ROLE_WORLD_SIZE")
        assert [[env[name] for name in told] for env in envs] == [
            ["0", "0", "0", "0", "4", "2", "4"],
            ["1", "1", "0", "1", "4", "2", "4"],
            ["2", "0", "1", "2", "4", "2", "4"],
            ["3", "1", "1", "3", "4", "2", "4"],
        ]
        assert len({(env["MASTER_ADDR"], env["MASTER_PORT"]) for env in envs}) == 1
        assert {env["TORCHELASTIC_RUN_ID"] for env in envs} == {"uid-1"}
        assert {env["OMP_NUM_THREADS"] for env in envs} == {os.environ.get("OMP_NUM_THREADS", "1")}
    finally:
        pods.close()


def test_a_killed_rank_is_told_and_a_higher_attempt_restarts_the_gang_in_place(pods: Pods) -> None:
    pods.script("""
        import os, signal, time
        rank, attempt = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]
        open(f"ran-{rank}-{attempt}-{os.environ['MASTER_PORT']}", "w").close()
        print("working on it", flush=True)
        if attempt == "0":
            if rank == "1":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
    """)
    pods.start(0, 1)
    seen = pods.operator.wait("rank 1 died", lambda seen: seen.get(1) is not None and seen[1].state == "failed")
    failure = seen[1].failure
    assert failure is not None
    assert (failure.reason, failure.fatal, failure.rank, failure.exit_code) == ("RankKilled", False, 1, -9)
    assert "resources.limits.memory" in failure.message
    assert "working on it" in failure.message
    assert seen[0].state == "running"
    launchers = [pods.pid(0), pods.pid(1)]
    pods.operator.attempt = 1
    assert [pods.end(index)[0] for index in (0, 1)] == [0, 0]
    assert [pods.pid(0), pods.pid(1)] == launchers
    ran = sorted(path.name.split("-")[1:] for path in pods.folder.glob("ran-*"))
    ports = {attempt: {port for _, at, port in ran if at == attempt} for attempt in ("0", "1")}
    assert [(rank, attempt) for rank, attempt, _ in ran] == [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")]
    assert len(ports["0"]) == len(ports["1"]) == 1
    assert ports["0"] != ports["1"], "the second attempt must not meet connections of the first"


@pytest.mark.parametrize(
    ("script", "reason", "words"),
    [
        pytest.param("raise SystemExit(64)", "RankExited", "exited with code 64", id="the fatal exit code"),
        pytest.param(
            """
            import json, os
            with open(os.environ["MODELMILL_ERROR_FILE"], "w") as stream:
                json.dump({"reason": "DataNotFound", "message": "there is no data at s3://x/y", "fatal": True}, stream)
            raise SystemExit(1)
            """,
            "DataNotFound",
            "there is no data at s3://x/y",
            id="a rank's own word",
        ),
    ],
)
def test_a_fatal_failure_is_told_once_and_ends_the_pod(pod: Pods, script: str, reason: str, words: str) -> None:
    pod.script(script)
    pod.start(0)
    code, found, _ = pod.end(0)
    assert code == names.EXIT_FATAL
    assert (found.ok, found.fatal, found.reason) == (False, True, reason)
    assert words in (found.message or "")
    assert pod.operator.latest[0].failure is not None


def test_training_goes_on_while_the_operator_is_away(pod: Pods) -> None:
    pod.script("""
        import pathlib, time
        pathlib.Path("started").touch()
        while not pathlib.Path("finish").exists():
            time.sleep(0.02)
    """)
    pod.start(0)
    pod.operator.wait("it runs", lambda seen: seen[0].state == "running")
    pod.operator.up = False
    time.sleep(0.3)
    (pod.folder / "finish").touch()
    code, found, log = pod.end(0)
    assert (code, found.ok) == (0, True)
    assert "no reply from the operator" in log


def test_progress_reaches_the_operator_and_a_stall_is_noticed(pod: Pods) -> None:
    pod.script("""
        import json, os, time
        with open(os.environ["MODELMILL_PROGRESS_FILE"], "w") as stream:
            json.dump({"step": 7, "totalSteps": 10, "loss": 0.5}, stream)
        time.sleep(60)
    """)
    pod.start(0)
    seen = pod.operator.wait("it stalls", lambda seen: seen[0].state == "failed")[0]
    assert seen.progress is not None
    assert (seen.progress.step, seen.progress.total_steps, seen.progress.loss) == (7, 10, 0.5)
    assert seen.failure is not None
    assert (seen.failure.reason, seen.failure.fatal) == ("Stalled", False)
    assert "after step 7" in seen.failure.message


@pytest.mark.parametrize("how", ["the pod is ended", "the operator says stop"])
def test_ranks_may_save_their_work_before_the_pod_ends(pod: Pods, how: str) -> None:
    pod.script("""
        import pathlib, signal, time
        def save(*_):
            time.sleep(0.3)
            pathlib.Path("saved").touch()
            raise SystemExit(0)
        signal.signal(signal.SIGTERM, save)
        pathlib.Path("ready").touch()
        time.sleep(60)
    """)
    pod.start(0)
    pod.operator.wait("the rank is ready", lambda seen: (pod.folder / "ready").exists())
    if how == "the pod is ended":
        pod.signal(0, signal.SIGTERM)
    else:
        pod.operator.stop = True
    code, found, _ = pod.end(0)
    assert (pod.folder / "saved").exists()
    assert code == 143
    assert (found.ok, found.reason, found.fatal) == (False, "Stopped", False)


def test_orphans_are_reaped_and_a_ranks_children_end_with_it(pod: Pods) -> None:
    pod.script("""
        import pathlib, subprocess, sys, time
        # A shell that starts something in the background and goes away leaves an orphan, which soon is a zombie.
        subprocess.run(["sh", "-c", "sleep 0.2 & sleep 60 & echo $! > lasting"], check=True)
        time.sleep(1)
    """)
    pod.start(0)
    pod.operator.wait("the orphan has ended", lambda seen: (pod.folder / "lasting").exists())
    time.sleep(0.6)
    children = Path(f"/proc/{pod.pid(0)}/task/{pod.pid(0)}/children").read_text().split()
    states = [Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0] for child in children]
    assert len(children) >= 2
    assert "Z" not in states
    assert pod.end(0)[0] == 0
    lasting = (pod.folder / "lasting").read_text().strip()
    stat = Path(f"/proc/{lasting}/stat")
    assert not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] == "Z"


def test_the_launcher_imports_nothing_heavy() -> None:
    code = "import sys, modelmill.train.launcher; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"torch", "numpy", "fsspec", "asyncio"} & set(loaded)
