"""The status of a ModelService: which version serves, which one is on its way, and what the autoscaler decided."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from modelmill_operator.api.common import Observed, Status, Time

Digest = Annotated[str, Meta(max_length=128)]


class Resolved(Observed, frozen=True, kw_only=True):
    version: Annotated[int, Meta(ge=1)]
    """Version that spec.model points to."""
    digest: Digest
    """Digest of the version's manifest (sha256:...)."""
    variant: Annotated[str, Meta(max_length=63)]
    """Variant that spec.variant chose."""
    engine: Annotated[str, Meta(max_length=63)] | None = None
    """What serves the version instead of Modelmill's own server: vllm for a generative model."""
    hash: Annotated[str, Meta(max_length=64)]
    """Hash of the fields of the spec that this answer depends on: another hash means it must be asked again."""
    time: Time | None = None
    """When the registry was asked."""


class RolloutStatus(Observed, frozen=True, kw_only=True):
    version: Annotated[int, Meta(ge=1)]
    """Version that is rolling out."""
    state: Annotated[str, Meta(max_length=32)]
    """Progressing, Complete or Failed."""
    reason: Annotated[str, Meta(max_length=8192)] | None = None
    """Why it is in this state."""
    hash: Annotated[str, Meta(max_length=64)] | None = None
    """Hash of the pods that are rolling out: another hash is another rollout."""
    time: Time | None = None
    """When it came to this state."""


class AutoscalingStatus(Observed, frozen=True, kw_only=True):
    desired_replicas: Annotated[int, Meta(ge=0)]
    """Pods that the autoscaler wants."""
    stable_concurrency: Annotated[str, Meta(max_length=32)] | None = None
    """Requests in flight in all pods, averaged over the stable window."""
    panic_concurrency: Annotated[str, Meta(max_length=32)] | None = None
    """Requests in flight in all pods, averaged over a tenth of the stable window."""
    panicking: bool | None = None
    """Whether a burst is on: while it is, pods are only added."""
    reason: Annotated[str, Meta(max_length=1024)] | None = None
    """Why this number."""
    time: Time | None = None
    """When this was decided."""


class LastFailure(Observed, frozen=True, kw_only=True):
    version: Annotated[int, Meta(ge=1)] | None = None
    """Version that failed, where known."""
    reason: Annotated[str, Meta(max_length=128)]
    """One CamelCase word for programs."""
    message: Annotated[str, Meta(max_length=32768)] = ""
    """What happened, with the tail of the pod's log."""
    time: Time | None = None
    """When it was seen."""


class ModelServiceStatus(Status, frozen=True, kw_only=True):
    url: Annotated[str, Meta(max_length=2048)] | None = None
    """Where to send requests."""
    replicas: Annotated[int, Meta(ge=0)] = 0
    """Pods that exist."""
    ready_replicas: Annotated[int, Meta(ge=0)] = 0
    """Pods that take requests."""
    selector: Annotated[str, Meta(max_length=1024)] | None = None
    """Label selector of the pods, for the scale subresource."""
    version: Annotated[int, Meta(ge=1)] | None = None
    """Version that serves."""
    digest: Digest | None = None
    """Digest of the manifest of the version that serves (sha256:...)."""
    variant: Annotated[str, Meta(max_length=63)] | None = None
    """Variant that serves."""
    resolve_failures: Annotated[int, Meta(ge=0)] = 0
    """How often the registry had no answer, since it had one."""
    retry_time: Time | None = None
    """When the registry is asked again after a failure."""
    resolved: Resolved | None = None
    """What the registry answered to spec.model and spec.variant."""
    rollout: RolloutStatus | None = None
    """The newest rollout."""
    autoscaling: AutoscalingStatus | None = None
    """The autoscaler's newest decision and what it was based on."""
    last_failure: LastFailure | None = None
    """The newest failure to resolve or load a version."""
