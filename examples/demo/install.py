"""Helm, as a user would call it: the chart with the images that were just built."""

import json
import subprocess
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
NAMESPACE = "modelmill-system"


def images() -> dict[str, str]:
    """The references that `make images` wrote down."""
    found: dict[str, str] = json.loads((CHECKOUT / "build" / "images.json").read_text())
    return found


def install(*values: str) -> None:
    """Installs or upgrades the chart and waits until the operator is ready."""
    built = images()
    given = [*_image("image", built["operator"]), *_image("runtime.image", built["runtime"]), *values]
    command = ["helm", "upgrade", "--install", "modelmill", str(CHECKOUT / "helm" / "modelmill"), "-n", NAMESPACE]
    command += ["--create-namespace", "--wait", "--timeout", "5m", *(part for value in given for part in ("--set", value))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"helm failed: {done.stderr.strip()}")


def _image(value: str, reference: str) -> list[str]:
    repository, _, tag = reference.rpartition(":")
    return [f"{value}.repository={repository}", f"{value}.tag={tag}"]
