"""Images made without a container engine: one static program as an OCI archive that containerd imports.

Pause, CoreDNS and busybox need no base and no build: the program, its place in the file system, and three small JSON
documents around them.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_LAYER = "application/vnd.oci.image.layer.v1.tar"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"


def write_image(
    target: Path, *, name: str, program: Path, at: str, links: Mapping[str, str] | None = None, command: Sequence[str]
) -> None:
    """Writes an OCI archive of an image called `name` with the program at the path `at` and symbolic links to it."""
    layer = _layer(program, at, links or {})  # not compressed: it travels no further than containerd
    blobs: dict[str, bytes] = {}

    def keep(content: bytes, media: str) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[digest] = content
        return {"mediaType": media, "digest": f"sha256:{digest}", "size": len(content)}

    configuration = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
        "os": "linux",
        "config": {"Cmd": list(command), "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": keep(_encoded(configuration), _CONFIG),
        "layers": [keep(layer, _LAYER)],
    }
    named = {**keep(_encoded(manifest), _MANIFEST), "annotations": {"io.containerd.image.name": name}}
    index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [named]}
    files = {f"blobs/sha256/{digest}": content for digest, content in blobs.items()}
    files |= {"oci-layout": _encoded({"imageLayoutVersion": "1.0.0"}), "index.json": _encoded(index)}
    with tarfile.open(target, "w") as archive:
        for path, content in files.items():
            _add(archive, path, content, mode=0o644)


def _layer(program: Path, at: str, links: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        _add(archive, at.lstrip("/"), program.read_bytes(), mode=0o755)
        for link, to in links.items():
            entry = tarfile.TarInfo(link.lstrip("/"))
            entry.type, entry.linkname = tarfile.SYMTYPE, to
            archive.addfile(entry)
        scratch = tarfile.TarInfo("tmp")
        scratch.type, scratch.mode = tarfile.DIRTYPE, 0o1777
        archive.addfile(scratch)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, path: str, content: bytes, *, mode: int) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))


def _encoded(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True).encode()
