"""Cluster DNS: CoreDNS as a Deployment behind the Service address that every pod's resolv.conf names."""

from __future__ import annotations

from typing import Any

from tests.cluster import config


def documents(*, image: str, forward: bool) -> list[dict[str, Any]]:
    """The objects of cluster DNS; `forward` where the node has a resolver that pods can reach."""
    plugins = ["errors", "ready", "kubernetes cluster.local in-addr.arpa ip6.arpa", "cache 5"]
    if forward:
        plugins.append("forward . /etc/resolv.conf")
    corefile = ".:53 {\n" + "".join(f"  {plugin}\n" for plugin in plugins) + "}\n"
    place = {"name": "coredns", "namespace": "kube-system"}
    labels = {"k8s-app": "kube-dns"}
    rbac = "rbac.authorization.k8s.io"
    ready = {"httpGet": {"path": "/ready", "port": 8181}}
    container = {
        "name": "coredns",
        "image": image,
        "imagePullPolicy": "Never",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "volumeMounts": [{"name": "settings", "mountPath": "/etc/coredns"}],
        "command": ["/bin/coredns"],
        # Without, a busy node starves it, and every connection by name with it.
        "resources": {"requests": {"cpu": "100m", "memory": "70Mi"}},
        "readinessProbe": {**ready, "periodSeconds": 1, "timeoutSeconds": 5},
        # One that started while the API was away never gets ready by itself.
        "livenessProbe": {**ready, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
    }
    pod = {
        "serviceAccountName": "coredns",
        "priorityClassName": "system-cluster-critical",
        "dnsPolicy": "Default",
        "containers": [container],
        "volumes": [{"name": "settings", "configMap": {"name": "coredns"}}],
    }
    rules = [
        {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    ports = [{"name": f"dns-{protocol.lower()}", "port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": place},
        {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "metadata": {"name": "coredns"}, "rules": rules},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "coredns"},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "coredns"},
            "subjects": [{"kind": "ServiceAccount", **place}],
        },
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": place, "data": {"Corefile": corefile}},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": place,
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {"clusterIP": config.SERVICE_OF_DNS, "selector": labels, "ports": ports},
        },
    ]
