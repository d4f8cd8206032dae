"""What a user may override in the pods of both kinds.

The fields have the names and meaning that they have in a Kubernetes pod. Deep ones (affinity, volumes, valueFrom) are
passed on unread: the API server checks them when the pod is created, and the operator shows its answer in a condition.
Overrides are added to what Modelmill needs itself and never replace it: security contexts are not among them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, field

from modelmill_operator.api.common import ObjectName, Record, Registry
from modelmill_operator.api.rules import limit

QUANTITY_PATTERN = r"^([0-9]+|[0-9]*\.[0-9]+)(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|e[+-]?[0-9]+)?$"
Quantity = int | Annotated[str, Meta(max_length=32, pattern=QUANTITY_PATTERN)]
Value = Annotated[str, Meta(max_length=4096)]
LabelValue = Annotated[str, Meta(max_length=63)]


# Passed on unread, but for its name.
_NAME = {"type": "string", "maxLength": 253, "description": "Name of the entry."}
NamedEntry = Annotated[dict[str, Any], Meta(extra_json_schema={"properties": {"name": _NAME}, "required": ["name"]})]


class Resources(Record, frozen=True, kw_only=True):
    requests: Annotated[dict[str, Quantity], Meta(max_length=16)] = field(default_factory=dict)
    """What the scheduler reserves for a pod, such as {cpu: 2, memory: 4Gi}."""
    limits: Annotated[dict[str, Quantity], Meta(max_length=16)] = field(default_factory=dict)
    """What a pod may use at most, such as {memory: 8Gi, nvidia.com/gpu: 1}. Extended resources such as GPUs belong here."""


class EnvVar(Record, frozen=True, kw_only=True):
    name: Annotated[str, Meta(min_length=1, max_length=256)]
    """Name of the variable."""
    value: Value | None = None
    """Its value."""
    value_from: dict[str, Any] | None = None
    """Where its value comes from, as in a pod: secretKeyRef, configMapKeyRef, fieldRef or resourceFieldRef."""


class LocalObject(Record, frozen=True, kw_only=True):
    name: ObjectName
    """Name of the Secret, in the resource's namespace."""


class PodOverrides(Record, frozen=True, kw_only=True):
    env: Annotated[tuple[EnvVar, ...], limit(max_length=128, map_keys=("name",))] = ()
    """Environment variables for every pod. Names that start with MODELMILL_ are taken."""
    env_from: Annotated[tuple[dict[str, Any], ...], Meta(max_length=32)] = ()
    """Secrets and ConfigMaps whose keys become environment variables, as in a pod."""
    resources: Resources = Resources()
    """CPU, memory and accelerators of one pod: a worker of the gang, or a server. Set them: without requests the
    scheduler packs pods blindly."""
    shm_size: Quantity | None = None
    """Size of /dev/shm, such as 2Gi. Raise it when data loaders with several processes fail with a bus error. Counts as
    memory of the pod. Left out: 256Mi."""
    node_selector: Annotated[dict[str, LabelValue], Meta(max_length=32)] = field(default_factory=dict)
    """Labels that a node must have."""
    tolerations: Annotated[tuple[dict[str, Any], ...], Meta(max_length=32)] = ()
    """Taints of nodes that the pods put up with, as in a pod."""
    affinity: dict[str, Any] | None = None
    """Affinity and anti-affinity to nodes and pods, as in a pod."""
    volumes: Annotated[tuple[NamedEntry, ...], Meta(max_length=32)] = ()
    """Further volumes, as in a pod. They are in every pod: keep held-out data out of here and name it in
    spec.data.test, which only the evaluator mounts."""
    volume_mounts: Annotated[tuple[NamedEntry, ...], Meta(max_length=32)] = ()
    """Where the volumes appear in the container, as in a pod. Paths under /modelmill are taken."""
    labels: Annotated[dict[str, LabelValue], Meta(max_length=32)] = field(default_factory=dict)
    """Further labels of the pods. Keys under modelmill.io are taken."""
    annotations: Annotated[dict[str, Value], Meta(max_length=32)] = field(default_factory=dict)
    """Further annotations of the pods."""
    service_account_name: ObjectName | None = None
    """Service account of the pods. Set it when a cloud grants access to storage by service account. Left out: the
    namespace's default one."""
    runtime_class_name: ObjectName | None = None
    """Container runtime of the pods, such as nvidia or gvisor."""
    priority_class_name: ObjectName | None = None
    """PriorityClass of the pods: whom the scheduler serves and evicts first."""
    image_pull_secrets: Annotated[tuple[LocalObject, ...], limit(max_length=8, map_keys=("name",))] = ()
    """Secrets with the credentials of the image's registry."""


class RunsPods(Record, frozen=True, kw_only=True):
    """What the specs of both kinds share: where models are, and what the pods look like."""

    registry: Registry | None = None
    """The model registry. Left out: the one that the operator was installed with."""
    image: Annotated[str, Meta(min_length=1, max_length=512)] | None = None
    """Container image of the pods; it must contain the modelmill package. Set it when code needs further Python packages.
    Left out: the runtime image that the operator was installed with."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When to pull the image. Left out: Always for the tag latest, else IfNotPresent."""
    pod: PodOverrides = PodOverrides()
    """Settings of the pods. A change holds for the pods created after it."""
