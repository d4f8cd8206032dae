"""A GPU is there, and what it showed is written down: RESULTS=file writes the figures with the device's name."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def figures() -> Iterator[dict[str, Any]]:
    if not torch.cuda.is_available():
        pytest.fail("there is no GPU here: this folder is for machines with one")
    found: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    yield found
    if path := os.environ.get("RESULTS"):
        Path(path).write_text(json.dumps(found, indent=1) + "\n")
