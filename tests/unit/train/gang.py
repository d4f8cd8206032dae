"""Ranks without launchers: each is forked from one process that has imported torch already."""

import multiprocessing
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelmill.contract import codec, names
from modelmill.contract.jobfile import Checkpoint, Data, JobFile
from tests.ports import free_port

RECIPES = Path(__file__).parent / "recipes"
_context = multiprocessing.get_context("forkserver")


def job(folder: Path, *, recipe: str, hyperparameters: Mapping[str, Any], validation_fraction: float | None = None) -> JobFile:
    return JobFile(
        stage="train", namespace="default", name="job", uid="uid-1", model="m", registry=f"file://{folder}/registry", seed=3,
        recipe_path=str(RECIPES), entrypoint=f"noisy:{recipe}", hyperparameters=dict(hyperparameters),
        data=Data(train=f"file://{folder}/train", validation_fraction=validation_fraction), checkpoint=Checkpoint(every_steps=10),
        stall_timeout_seconds=30,
    )  # fmt: skip


class Ranks:
    """All ranks of one attempt; `wait` returns their exit codes."""

    def __init__(self, file: JobFile, *, world: int, folder: Path, accident: str = "") -> None:
        port = str(free_port())
        self._processes = []
        for rank in range(world):
            env = {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": "False", "OMP_NUM_THREADS": "1", "ACCIDENT": accident,
                names.ENV_JOB: codec.dumps(file),
                names.ENV_PROGRESS_FILE: str(folder / f"progress-{rank}.json"),
                names.ENV_ERROR_FILE: str(folder / f"error-{rank}.json"),
            }  # fmt: skip
            process = _context.Process(target=_rank, args=(env, str(folder / f"log-{rank}.txt")))
            process.start()
            self._processes.append(process)

    def wait(self) -> list[int | None]:
        for process in self._processes:
            process.join(300)
        return [process.exitcode for process in self._processes]


def _rank(env: dict[str, str], log: str) -> None:
    from modelmill.train import main

    os.environ.update(env)
    target = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(target, sys.__stdout__.fileno() if sys.__stdout__ else 1)
    os.dup2(target, sys.__stderr__.fileno() if sys.__stderr__ else 2)
    main.main()
