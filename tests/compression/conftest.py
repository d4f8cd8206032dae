"""Made-up cases have no time limit here: they train, or compile. One thread each: the workers share the processors."""

import pytest
import torch
from hypothesis import settings

settings.register_profile("compression", deadline=None)
settings.load_profile("compression")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)
