"""Builds and pushes container images with whichever program is there: Docker, Podman or Buildah.

Docker and Podman keep images where the user's others are. Buildah, for machines without an engine, gets a store of its
own in our cache. Layers of local pushes are packed with zstd: gzip takes minutes for a gigabyte.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.build import cache_root
from tests.cluster.process import ClusterError

# A machine's own certificate authorities and resolvers hold during the build too; nothing of them stays in the image.
_AS_ON_HOST = ("-v", "/etc/ssl/certs:/etc/ssl/certs:ro", "-v", "/etc/resolv.conf:/etc/resolv.conf:ro", "--network", "host")
_PASSED_ON = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CERT", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass(frozen=True, kw_only=True, slots=True)
class Builder:
    """One of the three programs, with the options that it needs."""

    name: str
    command: tuple[str, ...]
    options: tuple[str, ...] = ()

    def build(self, reference: str, *, context: Path, file: str, arguments: Mapping[str, str], target: str = "") -> None:
        """Builds an image, or its stage `target`; unchanged steps come from the cache."""
        given = {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | dict(arguments)
        flags = [part for name, value in given.items() for part in ("--build-arg", f"{name}={value}")]
        stage = ["--target", target] if target else []
        self._run("build", *self.options, *flags, *stage, "-t", reference, "-f", str(context / file), str(context))

    def exists(self, reference: str) -> bool:
        """Whether the image is in the store."""
        return self._try("inspect", "--type", "image", reference)

    def pull(self, reference: str) -> bool:
        """Fetches an image; False when it cannot be had."""
        return self._try("pull", reference)

    def tags(self, repository: str) -> list[str]:
        """The references of a repository's images in the store, newest first."""
        name = "{{.Name}}" if self.name == "buildah" else "{{.Repository}}"
        listed = self._output("images", "--format", f"{name}:{{{{.Tag}}}}")
        return [reference for reference in listed.split() if reference.rpartition(":")[0] == repository]

    def remove(self, reference: str) -> None:
        """Takes the image out of the store; one that is in use stays."""
        self._try("rmi", reference)

    def push(self, reference: str, destination: str, *, local: bool) -> None:
        """Uploads the layers that the registry lacks; `local` for one on loopback, without TLS."""
        if self.name == "docker":
            self._run("tag", reference, destination)
            self._run("push", "--quiet", destination)
            return
        fast = ["--tls-verify=false", "--compression-format=zstd", "--compression-level=1"] if local else []
        self._run("push", "--quiet", *fast, reference, f"docker://{destination}")

    def _run(self, *arguments: str) -> None:
        ended = subprocess.run([*self.command, *arguments], capture_output=True, text=True, check=False)
        if ended.returncode != 0:
            end = "\n".join((ended.stdout + ended.stderr).splitlines()[-40:])
            raise ClusterError(f"{self.name} {arguments[0]} failed:\n{end}")

    def _output(self, *arguments: str) -> str:
        return subprocess.run([*self.command, *arguments], capture_output=True, text=True, check=True).stdout

    def _try(self, *arguments: str) -> bool:
        return subprocess.run([*self.command, *arguments], capture_output=True, check=False).returncode == 0


def find_builder() -> Builder:
    """Docker when its engine answers, else Podman, else Buildah."""
    if shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0:
        return Builder(name="docker", command=("docker",))
    if shutil.which("podman"):
        return Builder(name="podman", command=("podman",), options=("--layers", *_AS_ON_HOST))
    if shutil.which("buildah"):
        store = cache_root() / "images"
        place = ("--root", str(store / "store"), "--runroot", str(store / "run"))
        # The `chroot` isolation works in containers and virtual machines where no other does.
        return Builder(
            name="buildah",
            command=("buildah", *place, *(("--storage-driver", "overlay") if os.geteuid() == 0 else ())),
            options=("--layers", "--isolation", "chroot", *_AS_ON_HOST),
        )
    raise ClusterError("no program to build images with: install docker, podman or buildah")
