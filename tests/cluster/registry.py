"""The built-in cluster's image registry: forgets old images, whose layers would fill the disk."""

from __future__ import annotations

import http.client
import json
import subprocess
from collections.abc import Collection

from tests.cluster import builtin, config
from tests.cluster.process import ClusterError

_ANY_MANIFEST = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"


def forget(repository: str, *, all_but: Collection[str]) -> int:
    """Removes a repository's tags except those named, and then the layers that nobody needs; returns how many tags."""
    old = [tag for tag in _tags(repository) if tag not in all_but]
    for tag in old:
        digest = _digest(repository, tag)
        if digest is not None:
            _ask("DELETE", f"/v2/{repository}/manifests/{digest}")
    if old:
        settings = builtin.state() / "registry.yaml"
        command = ["docker-registry", "garbage-collect", str(settings)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode != 0:
            raise ClusterError(f"{' '.join(command)} failed: {ended.stderr[-500:]}")
    return len(old)


def _tags(repository: str) -> list[str]:
    status, body, _ = _ask("GET", f"/v2/{repository}/tags/list")
    return (json.loads(body)["tags"] or []) if status == 200 else []  # null once the last tag has gone


def _digest(repository: str, tag: str) -> str | None:
    status, _, digest = _ask("HEAD", f"/v2/{repository}/manifests/{tag}")
    return digest if status == 200 else None  # gone already: a tag of the same manifest was removed


def _ask(method: str, path: str) -> tuple[int, bytes, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", config.registry_port(), timeout=30)
    try:
        connection.request(method, path, headers={"Accept": _ANY_MANIFEST})
        response = connection.getresponse()
        return response.status, response.read(), response.getheader("Docker-Content-Digest")
    finally:
        connection.close()
