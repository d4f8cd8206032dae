"""Schemathesis sends what the OpenAPI document allows and what it forbids, and compares the answers with what it tells.

`make test-surface EXAMPLES=1000` sends more: so many requests are made up for each operation.
"""

import os
import subprocess
import sys
from pathlib import Path

from tests.surface.test_openai import ENCODER, encoder
from tests.unit.serve.support import MIXED, Running, mixed, running

EXAMPLES = os.environ.get("EXAMPLES", "5")


BEYOND_SCHEMAS = """
[[operations]]
include-path-regex = "/(infer|unload)$"
checks.positive_data_acceptance.enabled = false
"""
"""As many values as the shape tells is no schema's business, raw tensors have none, and unloading is always refused."""


def fuzz(server: Running, *options: str, into: Path) -> None:
    config = into / "schemathesis.toml"
    config.write_text(BEYOND_SCHEMAS)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config)),
            *("run", f"http://127.0.0.1:{server.server.port}/openapi.json", "--no-color", *options),
        ],
        cwd=into,
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_server_keeps_what_its_document_says(tmp_path: Path) -> None:
    # The paths with a version are the same functions.
    only = ("--exclude-path-regex", "/versions/", "--phases", "coverage,fuzzing", "--max-examples", EXAMPLES)
    with running() as server:
        fuzz(server, *only, into=tmp_path)


def test_the_server_keeps_what_its_document_says_of_several_tensors(tmp_path: Path) -> None:
    """Not that it takes all that the schemas allow: they cannot say that rows have equal lengths."""
    only = ("--include-path-regex", ":predict$|model./infer$", "--phases", "coverage,fuzzing", "--max-examples", EXAMPLES)
    with running(mixed, signature=MIXED) as server:
        fuzz(server, *only, "--exclude-checks", "positive_data_acceptance", into=tmp_path)


def test_the_server_keeps_what_its_document_says_of_embeddings(tmp_path: Path) -> None:
    with running(encoder, signature=ENCODER) as server:
        only = ("--include-path-regex", "embeddings", "--phases", "coverage,fuzzing", "--max-examples", EXAMPLES)
        fuzz(server, *only, "--exclude-checks", "positive_data_acceptance", into=tmp_path)
