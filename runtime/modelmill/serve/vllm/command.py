"""How vLLM is started: its command line and its environment, from the service file alone."""

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from modelmill.contract.servicefile import ServiceFile
from modelmill.failures import Fault

PROGRAM = "vllm"
ARGUMENTS = "MODELMILL_VLLM_ARGUMENTS"
"""Of the pod's environment: further arguments of `vllm serve`, as in a shell."""
SETTINGS = {
    # No usage statistics, and nothing fetched: what is served is what was checked.
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "PYTHONUNBUFFERED": "1",
}
NO_HOST = "none.invalid"
"""The one whose pictures are fetched for requests: it cannot exist. A client must not have the pod read from the cluster."""
KEPT_FROM_IT = ("AWS_", "MODELMILL_", "VLLM_API_KEY")
"""Beginnings of names that vLLM has no use for: the registry's credentials, and a key where ours are asked for already."""


class NotInstalled(Fault):
    """The image has no vLLM."""

    reason = "VllmNotInstalled"


class BadArguments(Fault):
    """What the environment says cannot be a command line."""

    reason = "BadVllmArguments"


def program(service: ServiceFile, *, path: str) -> str:
    """The `vllm` on `path`, or beside this Python."""
    found = shutil.which(PROGRAM, path=os.pathsep.join((path, str(Path(sys.executable).parent))))
    if found is None:
        raise NotInstalled(
            f"version {service.version} of model {service.model!r} is generative and is served by vLLM, which this image does "
            f"not have: set spec.image to one that has both vLLM and modelmill (docs/serving.md, Generative models)"
        )
    return found


def arguments(service: ServiceFile, folder: Path, *, socket: Path, further: str) -> list[str]:
    """Of `vllm serve`: what the user may change, what the user gives, and what must hold. The last one of an option counts."""
    try:
        own = shlex.split(further)
    except ValueError as error:
        raise BadArguments(f"{ARGUMENTS} is {further!r}: {error}; write it as in a shell") from error
    limit = ["--max-num-seqs", str(service.container_concurrency)] if service.container_concurrency else []
    media = ["--allowed-media-domains", NO_HOST]
    fixed = ["--served-model-name", service.model, "--uds", str(socket), "--load-format", "safetensors"]
    return ["serve", str(folder), *limit, *media, *own, *fixed]


def environment(own: Mapping[str, str], *, home: Path) -> dict[str, str]:
    """`home` is used where the user's is not writable, as in a pod with a read-only root: vLLM keeps caches there."""
    kept = {name: value for name, value in own.items() if not name.startswith(KEPT_FROM_IT)}
    if not os.access(kept.get("HOME", ""), os.W_OK):
        kept["HOME"] = str(home)
    # torch asks for the name of its user, whom the image's list need not know.
    return {"USER": "modelmill", **kept, **SETTINGS}
