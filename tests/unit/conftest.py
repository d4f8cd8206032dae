"""What all unit tests share. Properties may take long on a busy machine: only the suite as a whole has a time limit."""

import multiprocessing
import os
from multiprocessing import forkserver

import pytest
from hypothesis import settings

# Before torch is imported: threads that spin for work starve each other where processes outnumber cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("modelmill", deadline=None)
settings.load_profile("modelmill")


@pytest.fixture(scope="session")
def torch_forkserver() -> None:
    """Processes are forked from one that has imported torch; the first optimizer would import torch._dynamo, for seconds."""
    preload = ["modelmill.train.main", "modelmill.evaluate.measure", "torch._dynamo"]
    multiprocessing.get_context("forkserver").set_forkserver_preload(preload)
    forkserver.ensure_running()
