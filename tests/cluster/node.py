"""The one node of the built-in cluster: an image registry, containerd, kubelet and kube-proxy, all under one folder.

Pods hang on point-to-point links, not on a bridge: every packet passes the host's rules, so a pod reaches a Service
whose endpoint is beside it without any setting of the kernel's bridge. `clear()` takes away what outlives processes:
mounts, rules, cgroups.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import build, config
from tests.cluster.pki import Authority
from tests.cluster.process import ClusterError, Programs, http_status

PAUSE_IMAGE = "localhost/pause:1"
_RUN = Path("/run/modelmill")  # sockets and mounts: a short path, gone after a reboot
SOCKET = _RUN / "containerd.sock"
_NETWORK = "modelmill"
_NFT_TABLES = ("ip modelmill", "ip kube-proxy", "ip6 kube-proxy")


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """The programs of the node; `folder` holds their state, `registry` the images, which outlive the cluster."""

    folder: Path
    registry: Path
    address: str
    server: str
    programs: Programs
    authority: Authority

    def start_registry(self) -> None:
        """An image registry on loopback: a push moves only the layers that changed."""
        address = f"127.0.0.1:{config.registry_port()}"
        settings = {
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(self.registry)}, "delete": {"enabled": True}},
            "http": {"addr": address},
        }
        path = _written(self.folder / "registry.yaml", yaml.safe_dump(settings))
        self.programs.start("registry", ["docker-registry", "serve", path])
        self.programs.wait("registry", lambda: http_status(config.registry_port(), "/v2/") == 200)

    def start_containerd(self) -> None:
        """The container runtime, with the network of the pods."""
        _written(self.folder / "cni" / "10-modelmill.conflist", json.dumps(self._network()))
        registry = f"127.0.0.1:{config.registry_port()}"
        hosts = f'server = "http://{registry}"\n[host."http://{registry}"]\n  capabilities = ["pull", "resolve"]\n'
        _written(self.folder / "certs.d" / f"localhost:{config.registry_port()}" / "hosts.toml", hosts)
        path = _written(self.folder / "containerd.toml", self._containerd_settings())
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        outside = f"ip saddr {config.POD_RANGE} ip daddr != {config.POD_RANGE} masquerade"
        chain = f"chain outgoing {{\ntype nat hook postrouting priority srcnat\n{outside}\n}}"
        _nft(f"table ip modelmill {{\n}}\ndelete table ip modelmill\ntable ip modelmill {{\n{chain}\n}}\n")
        self.programs.start("containerd", [build.program("containerd"), "-c", path], env={"PATH": build.search_path()})
        self.programs.wait("containerd", lambda: _succeeds(ctr("version")))

    def start_kubelet(self) -> None:
        """The kubelet and kube-proxy."""
        settings = _written(self.folder / "kubelet.yaml", yaml.safe_dump(self._kubelet_settings()))
        kubeconfig = self.authority.kubeconfig(
            "kubelet", server=self.server, user=f"system:node:{config.NODE}", groups=["system:nodes"]
        )
        arguments = [f"--config={settings}", f"--kubeconfig={kubeconfig}", f"--root-dir={self.folder / 'kubelet'}"]
        names = [f"--hostname-override={config.NODE}", f"--node-ip={self.address}"]
        self.programs.start("kubelet", [build.program("kubelet"), *arguments, *names])
        self.programs.wait("kubelet", lambda: http_status(10248, "/healthz") == 200)
        proxy = _written(self.folder / "kube-proxy.yaml", yaml.safe_dump(self._proxy_settings()))
        self.programs.start("kube-proxy", [build.program("kube-proxy"), f"--config={proxy}"])
        self.programs.wait("kube-proxy", lambda: http_status(10256, "/healthz") == 200)

    def clear(self) -> None:
        """Takes away mounts, network rules, cgroups and files; every process must have ended."""
        for place in (self.folder, _RUN):
            _unmount(place)
        for table in _NFT_TABLES:
            subprocess.run(["nft", "delete", "table", *table.split()], capture_output=True, check=False)
        for log in Path("/var/log/containers").glob("*.log"):
            if str(log.readlink()).startswith(f"{self.folder}/"):
                log.unlink()
        for result in Path("/var/lib/cni/results").glob(f"{_NETWORK}-*"):
            result.unlink()
        _remove_cgroups()
        for place in (self.folder, _RUN):
            if place.exists():
                shutil.rmtree(place)

    def _network(self) -> dict[str, Any]:
        addresses = {
            "type": "host-local",
            "dataDir": str(self.folder / "addresses"),
            "ranges": [[{"subnet": config.POD_RANGE_OF_NODE}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        return {"cniVersion": "0.4.0", "name": _NETWORK, "plugins": [{"type": "ptp", "ipam": addresses}]}

    def _containerd_settings(self) -> str:
        return f"""\
version = 3
root = "{self.folder}/containerd"
state = "{_RUN}/containerd"
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.cri.v1.images"]
  discard_unpacked_layers = true
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{PAUSE_IMAGE}"
[plugins."io.containerd.cri.v1.images".registry]
  config_path = "{self.folder}/certs.d"
[plugins."io.containerd.cri.v1.runtime"]
  # Without CAP_SYS_RESOURCE no sandbox starts otherwise.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["/usr/lib/cni", "/opt/cni/bin"]
  conf_dir = "{self.folder}/cni"
  use_internal_loopback = true
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
    SystemdCgroup = false
"""

    def _kubelet_settings(self) -> dict[str, Any]:
        serving = self.authority.issue(
            "kubelet-serving", user=config.NODE, addresses=[f"IP:{self.address}", f"DNS:{config.NODE}"]
        )
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "x509": {"clientCAFile": str(self.authority.root.crt)},
                "webhook": {"enabled": True},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(serving.crt),
            "tlsPrivateKeyFile": str(serving.key),
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "failSwapOn": False,
            "enforceNodeAllocatable": [],
            "clusterDNS": [config.SERVICE_OF_DNS],
            "clusterDomain": "cluster.local",
            "resolvConf": str(_written(self.folder / "resolv.conf", _reachable_resolvers())),
            "containerRuntimeEndpoint": f"unix://{SOCKET}",
            "podLogsDir": str(self.folder / "pod-logs"),
            "volumePluginDir": str(self.folder / "volume-plugins"),
            "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "200Mi"},
            "imageGCHighThresholdPercent": 100,  # never: nobody could pull again what was imported
            "imageGCLowThresholdPercent": 99,
            "serializeImagePulls": False,
            "makeIPTablesUtilChains": False,  # only kube-proxy's iptables mode wants them, and they would stay behind
            "maxPods": 110,
        }

    def _proxy_settings(self) -> dict[str, Any]:
        kubeconfig = self.authority.kubeconfig("kube-proxy", server=self.server, user="system:kube-proxy")
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "mode": "nftables",
            "clusterCIDR": config.POD_RANGE,
            "hostnameOverride": config.NODE,
            "conntrack": {"maxPerCore": 0, "min": 0},
        }


def ctr(*arguments: str) -> list[str]:
    """A command that talks to our containerd, in the namespace where the kubelet looks for images."""
    return [str(build.program("ctr")), "--address", str(SOCKET), "--namespace", "k8s.io", *arguments]


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # kube-proxy ends itself when its file is written to, whatever is written.
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
    return path


def _nft(rules: str) -> None:
    ended = subprocess.run(["nft", "-f", "-"], input=rules, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise ClusterError(f"nft refused the rule that lets pods out: {ended.stderr.strip()}")


def _reachable_resolvers() -> str:
    """The machine's DNS servers without those on loopback, which in a pod would mean the pod."""
    lines = Path("/etc/resolv.conf").read_text().splitlines()
    return "".join(
        f"{line}\n" for line in lines if line.startswith("nameserver") and not line.split()[1].startswith(("127.", "::1"))
    )


def _unmount(place: Path) -> None:
    def mounted() -> list[str]:
        points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        return sorted((point for point in points if point.startswith(f"{place}/")), reverse=True)

    for point in mounted():
        if not _succeeds(["umount", point]):
            subprocess.run(["umount", "--lazy", point], check=False)
    left = mounted()
    if left:  # removing files below would reach through the mount
        raise ClusterError(f"still mounted, so nothing below {place} was removed: {left}")


def _remove_cgroups() -> None:
    groups = Path("/sys/fs/cgroup")
    for top in [groups / "kubepods", *groups.glob("*/kubepods")]:
        for folder, _, _ in os.walk(top, topdown=False):
            try:
                Path(folder).rmdir()
            except OSError:
                pass  # a process of another kubelet is still in it
