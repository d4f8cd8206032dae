"""Clusters that are not built here: the context that a user names, or kind where a Docker engine answers."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

from tests.cluster import build

_KIND = "modelmill"


@functools.cache
def kind_of_cluster() -> str:
    """'context', 'kind' or 'built-in'."""
    if os.environ.get("MODELMILL_CONTEXT"):
        return "context"
    has_kind = shutil.which("kind") is not None and shutil.which("docker") is not None
    if has_kind and subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0:
        return "kind"
    return "built-in"


def kubeconfig() -> Path:
    """A kubeconfig whose current context is the chosen one; the user's own file stays as it is."""
    path = build.cache_root() / f"{kind_of_cluster()}.kubeconfig"
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind_of_cluster() == "kind":
        command = ["kind", "get", "kubeconfig", "--name", _KIND]
    else:
        context = os.environ["MODELMILL_CONTEXT"]
        command = [str(build.program("kubectl")), "config", "view", "--minify", "--flatten", f"--context={context}"]
    text = _output(*command)
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def up() -> None:
    """Creates the kind cluster when it is missing; a named context must answer already."""
    build.build(["kubectl", "helm"])
    if kind_of_cluster() == "kind" and _KIND not in _output("kind", "get", "clusters").split():
        subprocess.run(["kind", "create", "cluster", "--name", _KIND, "--wait", "120s"], check=True)
    print(describe())


def down() -> None:
    """Deletes our kind cluster; a named context is the user's."""
    if kind_of_cluster() == "kind":
        subprocess.run(["kind", "delete", "cluster", "--name", _KIND], check=True)
    (build.cache_root() / f"{kind_of_cluster()}.kubeconfig").unlink(missing_ok=True)


def describe() -> str:
    """The nodes and pods."""
    kubectl = [str(build.program("kubectl")), f"--kubeconfig={kubeconfig()}", "get"]
    return "\n".join([_output(*kubectl, "nodes"), _output(*kubectl, "pods", "--all-namespaces")])


def _output(*command: str) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: {ended.stderr.strip()}")
    return ended.stdout
