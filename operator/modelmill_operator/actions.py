"""What the pure core tells the engine to do, and what the engine tells the pure core: data only, no I/O.

A planner looks at one resource and its children and answers with a Plan: a list of actions, in order. The engine executes
them in that order and stops at the first failure, so a planner may rely on "A is done before B is tried": a SetStatus before
a Delete persists the decision before the irreversible step. Nothing here needs to be remembered between two calls; Signals
are hints that may be empty after a restart of the operator.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol

from modelmill.contract import names
from modelmill.contract.report import Report

if TYPE_CHECKING:
    from modelmill_operator.settings import Settings

Object = dict[str, Any]

API_VERSION = f"{names.GROUP}/v1alpha1"
FIELD_MANAGER = "modelmill"
ANNOTATION_APPLIED_HASH = f"{names.GROUP}/applied-hash"


@dataclass(frozen=True, slots=True, kw_only=True)
class Create:
    """POST an object that never changes (Pod, Job). One that exists already with our uid label counts as created."""

    object: Object


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply:
    """Server-side apply, forced. Costs nothing when the stored child carries the hash of the same wanted object."""

    object: Object


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """Delete exactly this incarnation (uid is a precondition). One that is gone, or replaced, counts as deleted."""

    kind: str
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Set the replicas of exactly this incarnation of a Deployment, and nothing else of it."""

    namespace: str
    name: str
    uid: str
    replicas: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetStatus:
    """Make the status of the resource exactly this. Costs nothing when it is so already."""

    status: Object


@dataclass(frozen=True, slots=True, kw_only=True)
class Emit:
    """Tell the user by a Kubernetes Event. Repeats are counted on one Event; a lost Event fails nothing."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


Action = Create | Apply | Scale | Delete | SetStatus | Emit


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do now, and when to look again if nothing happens before (None: only when something changes)."""

    actions: tuple[Action, ...] = ()
    requeue_after_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingDecision:
    """How many server pods a ModelService should have, with the numbers that led there."""

    replicas: int
    stable_concurrency: float
    panic_concurrency: float
    panicking: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """Facts about one resource that live in memory alone: any of them may be missing after a restart."""

    reports: Mapping[int, Report] = field(default_factory=dict)
    """TrainingJob: the latest report of each launcher, by gang index."""
    scaling: ScalingDecision | None = None
    """ModelService: the autoscaler's latest decision."""
    channel_version: int | None = None
    """ModelService: the version that its server pods see the channel point to, when it is not the one that was resolved."""
    published_at: str | None = None
    """ModelService: when a TrainingJob of this cluster last published to its channel (RFC 3339)."""
    refused: str | None = None
    """Why the API server refused the latest plan (quota, admission), in its words; None once one went through."""


class Planner(Protocol):
    """Decides what one resource needs next. Children are those that carry the uid of the resource."""

    def __call__(
        self, resource: Object, children: Sequence[Object], *, now: datetime, settings: "Settings", signals: Signals
    ) -> Plan: ...


def applied_hash(wanted: Object) -> str:
    """Sixteen hex digits that change with anything in the wanted object."""
    return hashlib.sha256(json.dumps(wanted, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def stamped(wanted: Object) -> Object:
    """The wanted object with its own hash as an annotation: what the engine sends for an Apply."""
    metadata = wanted["metadata"]
    annotations = {**metadata.get("annotations", {}), ANNOTATION_APPLIED_HASH: applied_hash(wanted)}
    return {**wanted, "metadata": {**metadata, "annotations": annotations}}
