"""What a cluster has once its node is up: the small images, cluster DNS, a pool of volumes, and GPUs that are played.

The volumes are plain folders of the node, bound by the StorageClass `local` (the default one). Nothing provisions or
frees them while tests run; `recycle_volumes()` wipes the released ones and offers them again.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster import build, config, dns
from tests.cluster.controlplane import ControlPlane
from tests.cluster.images import write_image
from tests.cluster.node import PAUSE_IMAGE, ctr
from tests.cluster.process import ClusterError, wait_until

DNS_IMAGE = "localhost/coredns:1"
BUSYBOX_IMAGE = "localhost/busybox:1"  # for pods of tests
VOLUMES = 40
_GPU = "/status/{}/nvidia.com~1gpu"


@dataclass(frozen=True, kw_only=True, slots=True)
class Addons:
    """Objects and images of the built-in cluster; `volumes` is the folder with one folder for each volume."""

    plane: ControlPlane
    volumes: Path

    def import_images(self) -> None:
        """Makes and imports the images that containerd lacks."""
        there = subprocess.run(ctr("images", "ls", "-q"), capture_output=True, text=True, check=True).stdout.split()
        if PAUSE_IMAGE not in there:
            self._import(PAUSE_IMAGE, build.program("pause"), command=["/bin/pause"])
        if DNS_IMAGE not in there:
            self._import(DNS_IMAGE, build.program("coredns"), command=["/bin/coredns"])
        if BUSYBOX_IMAGE not in there:
            busybox = Path(shutil.which("busybox") or "/bin/busybox")
            applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
            self._import(BUSYBOX_IMAGE, busybox, command=["/bin/sh"], applets=applets)

    def apply(self) -> None:
        """Creates or updates cluster DNS and the volumes, and waits until DNS answers."""
        has_resolver = "nameserver" in (self.plane.folder / "resolv.conf").read_text()
        storage_class = {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": "local", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": "kubernetes.io/no-provisioner",
        }
        documents = [*dns.documents(image=DNS_IMAGE, forward=has_resolver), storage_class]
        self.plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=_list(documents))
        self.recycle_volumes()
        wait_until(self._dns_ready, "cluster DNS is ready (kubectl -n kube-system describe pods)", seconds=120)

    def recycle_volumes(self) -> int:
        """Wipes released volumes and offers them again; returns how many."""
        found = json.loads(self.plane.kubectl("get", "pv", "-o", "json"))["items"]
        released = [item["metadata"]["name"] for item in found if item["status"]["phase"] in {"Released", "Failed"}]
        if released:
            self.plane.kubectl("delete", "pv", *released)
        for name in released:
            shutil.rmtree(self.volumes / name, ignore_errors=True)
        kept = {item["metadata"]["name"] for item in found} - set(released)
        wanted = {f"local-{number:02}" for number in range(VOLUMES)}
        for name in wanted:
            folder = self.volumes / name
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o777)  # pods write as whatever user they are
        if wanted - kept:
            self.plane.kubectl("create", "-f", "-", given=_list([self._volume(name) for name in sorted(wanted - kept)]))
        return len(released)

    def set_gpus(self, count: int) -> None:
        """Makes the node offer `count` GPUs: the real scheduler and kubelet then count them; 0 takes them away."""
        node = json.loads(self.plane.kubectl("get", "node", config.NODE, "-o", "json"))["status"]
        if count > 0:
            patch = [{"op": "add", "path": _GPU.format("capacity"), "value": str(count)}]
            # The kubelet copies it into allocatable at its next report only, minutes later.
            patch.append({**patch[0], "path": _GPU.format("allocatable")})
        else:
            patch = [
                {"op": "remove", "path": _GPU.format(part)}
                for part in ("capacity", "allocatable")
                if "nvidia.com/gpu" in node[part]
            ]
        if patch:
            change = ["--subresource=status", "--type=json", "-p", json.dumps(patch)]
            self.plane.kubectl("patch", "node", config.NODE, *change)

    def _import(self, name: str, program: Path, *, command: list[str], applets: Sequence[str] = ()) -> None:
        archive = self.plane.folder / "image.tar"
        at = f"/bin/{program.name}"
        links = {f"/bin/{applet}": program.name for applet in applets if applet != program.name}
        write_image(archive, name=name, program=program, at=at, links=links, command=command)
        ended = subprocess.run(ctr("images", "import", str(archive)), capture_output=True, text=True, check=False)
        archive.unlink()
        if ended.returncode != 0:
            raise ClusterError(f"importing {name} failed: {ended.stderr.strip()}")

    def _volume(self, name: str) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                "storageClassName": "local",
                "capacity": {"storage": "100Gi"},
                "accessModes": ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany"],
                "persistentVolumeReclaimPolicy": "Retain",
                "hostPath": {"path": str(self.volumes / name), "type": "Directory"},
            },
        }

    def _dns_ready(self) -> bool:
        found = json.loads(self.plane.kubectl("-n", "kube-system", "get", "deployment", "coredns", "-o", "json"))
        status = found.get("status", {})
        return bool(status.get("readyReplicas")) and status.get("observedGeneration") == found["metadata"]["generation"]


def _list(documents: list[dict[str, Any]]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
