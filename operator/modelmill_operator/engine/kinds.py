"""The kinds that the operator watches and writes, and how to find an object's place among them.

A Key names one of our own resources; an Id names any object. Children know their owner by labels, so that a pod of a Job leads to
its TrainingJob without asking anyone.
"""

from dataclasses import dataclass
from typing import NamedTuple

from modelmill.contract import names
from modelmill_operator.actions import API_VERSION, Object

TRAINING_JOB = "TrainingJob"
MODEL_SERVICE = "ModelService"
OWN_SELECTOR = f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY}"


class Key(NamedTuple):
    """One of our own resources by name."""

    kind: str
    namespace: str
    name: str


class Id(NamedTuple):
    """Any object by name."""

    kind: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Where the API serves a kind."""

    name: str
    api_version: str
    plural: str

    @property
    def group(self) -> str:
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        return self.api_version.rpartition("/")[2]

    @property
    def own(self) -> bool:
        """True for the resources that users write; the others are children."""
        return self.name in (TRAINING_JOB, MODEL_SERVICE)

    @property
    def selector(self) -> str | None:
        """Only our own children are listed and watched, never every pod of the cluster."""
        return None if self.own else OWN_SELECTOR

    def path(self, *, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        parts = ["apis" if self.group else "api", self.api_version]
        parts += ["namespaces", namespace] if namespace else []
        parts += [self.plural, *([name] if name else []), *([subresource] if subresource else [])]
        return "/" + "/".join(parts)


def _table(*rows: tuple[str, str, str]) -> dict[str, Kind]:
    return {name: Kind(name=name, api_version=api_version, plural=plural) for name, api_version, plural in rows}


WATCHED = _table(
    (TRAINING_JOB, API_VERSION, "trainingjobs"),
    (MODEL_SERVICE, API_VERSION, "modelservices"),
    ("Pod", "v1", "pods"),
    ("Job", "batch/v1", "jobs"),
    ("Deployment", "apps/v1", "deployments"),
    ("Service", "v1", "services"),
    ("ConfigMap", "v1", "configmaps"),
    ("PodDisruptionBudget", "policy/v1", "poddisruptionbudgets"),
    ("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies"),
    ("Ingress", "networking.k8s.io/v1", "ingresses"),
)
KINDS = WATCHED | _table(
    ("Event", "v1", "events"),
    ("Lease", "coordination.k8s.io/v1", "leases"),
    ("TokenReview", "authentication.k8s.io/v1", "tokenreviews"),
)


def id_of(item: Object) -> Id:
    metadata = item["metadata"]
    return Id(item["kind"], metadata.get("namespace", ""), metadata["name"])


def uid_of(item: Object) -> str:
    uid: str = item["metadata"]["uid"]
    return uid


def owner_of(item: Object) -> Key | None:
    """The resource that an object belongs to: itself for our own kinds, by label for children; None for strangers."""
    metadata = item["metadata"]
    if KINDS[item["kind"]].own:
        return Key(item["kind"], metadata.get("namespace", ""), metadata["name"])
    labels = metadata.get("labels") or {}
    for kind, label in ((TRAINING_JOB, names.LABEL_TRAINING_JOB), (MODEL_SERVICE, names.LABEL_MODEL_SERVICE)):
        if label in labels:
            return Key(kind, metadata.get("namespace", ""), labels[label])
    return None
