"""What leads traffic to a ModelService's pods and protects them: Service, PodDisruptionBudget, NetworkPolicy, Ingress."""

from modelmill.contract import names
from modelmill_operator.actions import Object
from modelmill_operator.api.model_service import ModelService
from modelmill_operator.serving import manifests
from modelmill_operator.workload import pod


def url(service: ModelService) -> str:
    """Where clients in the cluster send requests."""
    spec, meta = service.spec, service.metadata
    scheme, usual = ("https", 443) if spec.security.tls else ("http", 80)
    port = "" if spec.expose.port == usual else f":{spec.expose.port}"
    return f"{scheme}://{meta.name}.{meta.namespace}.svc{port}/v1/models/{spec.model.name}:predict"


def endpoint(service: ModelService, owner: Object, *, version: int) -> Object:
    """The Service. It selects the pods of one version alone: a version that does not load never takes traffic."""
    ports: list[Object] = [{"name": "http", "port": service.spec.expose.port, "targetPort": "http", "protocol": "TCP"}]
    if service.spec.expose.port != names.PORT_GRPC_SERVICE:
        # Gateways speak HTTP/2 without TLS to what says so.
        plain = {} if service.spec.security.tls else {"appProtocol": "kubernetes.io/h2c"}
        ports.append({"name": "grpc", "port": names.PORT_GRPC_SERVICE, "targetPort": "grpc", "protocol": "TCP", **plain})
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": pod.metadata(service.metadata.name, owner=owner, role="service"),
        "spec": {
            "type": service.spec.expose.service_type,
            "selector": {**manifests.selector(service), names.LABEL_VERSION: str(version)},
            "ports": ports,
        },
    }


def disruption_budget(service: ModelService, owner: Object) -> Object:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": pod.metadata(service.metadata.name, owner=owner, role="service"),
        "spec": {
            # Not minAvailable: with one replica that would block the drain of a node for ever.
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": manifests.selector(service)},
        },
    }


def policy(service: ModelService, owner: Object) -> Object:
    """Anyone may reach the serving ports; the admin port (metrics, probes) only pods of this cluster."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": pod.metadata(service.metadata.name, owner=owner, role="service"),
        "spec": {
            "podSelector": {"matchLabels": manifests.selector(service)},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"ports": [{"port": port, "protocol": "TCP"} for port in (names.PORT_SERVE, names.PORT_GRPC)]},
                {"from": [{"namespaceSelector": {}}], "ports": [{"port": names.PORT_ADMIN, "protocol": "TCP"}]},
            ],
        },
    }


def ingress(service: ModelService, owner: Object) -> Object | None:
    wanted = service.spec.expose.ingress
    if wanted is None:
        return None
    backend = {"service": {"name": service.metadata.name, "port": {"name": "http"}}}
    rule = {"host": wanted.host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}
    tls = [{"hosts": [wanted.host], "secretName": wanted.tls_secret_name}] if wanted.tls_secret_name else []
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": pod.metadata(service.metadata.name, owner=owner, role="service"),
        "spec": {
            **({"ingressClassName": wanted.class_name} if wanted.class_name else {}),
            "rules": [rule],
            **({"tls": tls} if tls else {}),
        },
    }
