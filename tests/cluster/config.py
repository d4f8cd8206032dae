"""What the parts of a cluster are told: ports, address ranges, and the command lines of the control plane's programs.

The pod range and the service range are the same on every cluster here. Ports are fixed for the one shared cluster and
free ones for each control plane that a test starts, so these never meet.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.pki import Authority, Certificate
from tests.ports import free_ports

SERVICE_RANGE = "10.96.0.0/16"
SERVICE_OF_API = "10.96.0.1"
SERVICE_OF_DNS = "10.96.0.10"
POD_RANGE = "10.244.0.0/16"
POD_RANGE_OF_NODE = "10.244.0.0/24"
NODE = "node-0"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ports:
    """Where a control plane listens."""

    api: int
    etcd: int
    etcd_peer: int
    controllers: int
    scheduler: int

    @classmethod
    def fixed(cls) -> Ports:
        """Those of the shared cluster: the usual ones, or what the environment says."""
        etcd = int(os.environ.get("MODELMILL_ETCD_PORT", "2379"))
        api = int(os.environ.get("MODELMILL_API_PORT", "6443"))
        return cls(api=api, etcd=etcd, etcd_peer=etcd + 1, controllers=10257, scheduler=10259)

    @classmethod
    def free(cls) -> Ports:
        """Five that nobody has."""
        api, etcd, etcd_peer, controllers, scheduler = free_ports(5)
        return cls(api=api, etcd=etcd, etcd_peer=etcd_peer, controllers=controllers, scheduler=scheduler)


def registry_port() -> int:
    """Where the cluster's image registry listens, on loopback."""
    return int(os.environ.get("MODELMILL_REGISTRY_PORT", "5000"))


def node_address() -> str:
    """An address of this machine that pods can reach: the loopback ones mean the pod itself."""
    named = os.environ.get("MODELMILL_NODE_ADDRESS")
    if named:
        return named
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # chooses a route; nothing is sent
        except OSError as error:
            raise SystemExit(
                "no route out of this machine: set MODELMILL_NODE_ADDRESS to one of its addresses, not loopback"
            ) from error
        return str(probe.getsockname()[0])


def etcd_arguments(ports: Ports, data: Path) -> list[str]:
    """Etcd without fsync: a test's cluster need not survive a power cut."""
    client, peer = f"http://127.0.0.1:{ports.etcd}", f"http://127.0.0.1:{ports.etcd_peer}"
    return [
        "--name=default",
        f"--data-dir={data}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def apiserver_arguments(
    ports: Ports, *, authority: Authority, serving: Certificate, tokens: Certificate, advertised: str | None
) -> list[str]:
    """The API server: for a whole cluster when an address is advertised to pods, else on loopback alone."""
    kubelet = authority.issue("apiserver-to-kubelet", user="kube-apiserver-kubelet-client", groups=["system:masters"])
    aggregation = authority.issue("aggregator", user="front-proxy-client")
    reach = (
        [f"--advertise-address={advertised}", "--bind-address=0.0.0.0"]
        if advertised
        else ["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none"]
    )
    return [
        *reach,
        f"--secure-port={ports.api}",
        f"--etcd-servers=http://127.0.0.1:{ports.etcd}",
        f"--client-ca-file={authority.root.crt}",
        f"--tls-cert-file={serving.crt}",
        f"--tls-private-key-file={serving.key}",
        f"--service-account-key-file={tokens.crt}",
        f"--service-account-signing-key-file={tokens.key}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        # Without this order `kubectl exec` and `logs` would look the node's name up in DNS.
        "--kubelet-preferred-address-types=InternalIP,Hostname",
        f"--kubelet-client-certificate={kubelet.crt}",
        f"--kubelet-client-key={kubelet.key}",
        f"--requestheader-client-ca-file={authority.root.crt}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={aggregation.crt}",
        f"--proxy-client-key-file={aggregation.key}",
        "--enable-aggregator-routing=true",
    ]


def controllers_arguments(ports: Ports, *, authority: Authority, kubeconfig: Path, tokens: Certificate, nodes: bool) -> list[str]:
    """The controller manager. Without nodes, nothing that would clear away pods for want of one."""
    without = ["node-lifecycle-controller", "taint-eviction-controller", "pod-garbage-collector-controller"]
    return [
        f"--kubeconfig={kubeconfig}",
        f"--secure-port={ports.controllers}",
        "--bind-address=127.0.0.1",
        f"--root-ca-file={authority.root.crt}",
        f"--cluster-signing-cert-file={authority.root.crt}",
        f"--cluster-signing-key-file={authority.root.key}",
        f"--service-account-private-key-file={tokens.key}",
        "--use-service-account-credentials",
        "--leader-elect=false",
        "--controllers=" + ",".join(["*", *([] if nodes else [f"-{name}" for name in without])]),
        # The defaults (20 a second) would be what a test of a thousand jobs measures.
        "--kube-api-qps=300",
        "--kube-api-burst=600",
    ]


def scheduler_arguments(ports: Ports, *, kubeconfig: Path) -> list[str]:
    """The scheduler."""
    return [
        f"--kubeconfig={kubeconfig}",
        f"--secure-port={ports.scheduler}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        "--kube-api-qps=300",
        "--kube-api-burst=600",
    ]


AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [{"level": "Metadata"}],
}
