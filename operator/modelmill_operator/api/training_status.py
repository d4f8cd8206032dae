"""The status of a TrainingJob: conditions for decisions, a few numbers for people, nothing that ticks by itself."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from modelmill_operator.api.common import Observed, Status, Time
from modelmill_operator.api.rules import limit


class Progress(Observed, frozen=True, kw_only=True):
    step: Annotated[int, Meta(ge=0)] = 0
    """Optimizer steps done."""
    total_steps: Annotated[int, Meta(ge=0)] | None = None
    """Optimizer steps that the whole training takes, where known."""
    epoch: Annotated[int, Meta(ge=0)] = 0
    """Passes over the data that were begun."""
    loss: Annotated[str, Meta(max_length=32)] | None = None
    """Loss of the newest step."""
    samples_per_second: Annotated[str, Meta(max_length=32)] | None = None
    """Samples that all ranks together process in a second."""
    checkpoint_step: Annotated[int, Meta(ge=0)] | None = None
    """Step of the newest complete checkpoint: where training goes on if pods die now."""
    estimated_completion_time: Time | None = None
    """When training is expected to end."""


class StageStatus(Observed, frozen=True, kw_only=True):
    name: Annotated[str, Meta(max_length=63)]
    """prepare, train, compress-VARIANT, evaluate or publish."""
    start_time: Time | None = None
    """When its first pod was created."""
    completion_time: Time | None = None
    """When it ended; absent while it runs."""
    failures: Annotated[int, Meta(ge=0)] = 0
    """Pods of this stage that failed."""
    message: Annotated[str, Meta(max_length=8192)] | None = None
    """Why it failed, or what it is waiting for."""


class VariantStatus(Observed, frozen=True, kw_only=True):
    name: Annotated[str, Meta(max_length=63)]
    """Name of the variant; dense is the uncompressed model."""
    bytes: Annotated[int, Meta(ge=0)] | None = None
    """Size of its weights in bytes."""
    metrics: Annotated[dict[str, str], Meta(max_length=32)] = field(default_factory=dict)
    """Value of each metric on the held-out data."""
    latency_millis: Annotated[str, Meta(max_length=32)] | None = None
    """Measured time of one forward pass of one sample in milliseconds."""
    passed: bool | None = None
    """Whether it met every gate; absent before it was judged."""
    reason: Annotated[str, Meta(max_length=8192)] | None = None
    """Why it was refused, with the numbers, or why it could not be made."""


class Published(Observed, frozen=True, kw_only=True):
    version: Annotated[int, Meta(ge=1)]
    """Number of the version."""
    digest: Annotated[str, Meta(max_length=128)]
    """Digest of its manifest (sha256:...), which covers every file of the version."""
    channel: Annotated[str, Meta(max_length=63)]
    """Channel that points to it."""
    uri: Annotated[str, Meta(max_length=2048)] | None = None
    """Where it is in the registry."""
    time: Time | None = None
    """When it was published."""


class TrainingJobStatus(Status, frozen=True, kw_only=True):
    stage: Annotated[str, Meta(max_length=63)] | None = None
    """Where the job is, for people: a stage, Suspended, Succeeded or Failed. Programs read the conditions."""
    attempt: Annotated[int, Meta(ge=0)] = 0
    """Number of the gang's current start; the first is 0."""
    created_attempt: Annotated[int, Meta(ge=0)] | None = None
    """Newest attempt for which every pod of the gang was there: a pod that is missing after that was lost."""
    restarts: Annotated[int, Meta(ge=0)] = 0
    """How often the gang was started again because of a failure; counts against spec.recovery.maxRestarts."""
    releases: Annotated[int, Meta(ge=0)] = 0
    """How often the gang gave back its pods because there was no room for all of them."""
    retry_time: Time | None = None
    """When a gang that found no room is created again."""
    start_time: Time | None = None
    """When the first pod was created; set anew when a suspended job goes on."""
    completion_time: Time | None = None
    """When the job succeeded or failed."""
    progress: Progress | None = None
    """How far training is; refreshed every few seconds at most."""
    stages: Annotated[tuple[StageStatus, ...], limit(max_length=32, map_keys=("name",))] = ()
    """What each stage did."""
    variants: Annotated[tuple[VariantStatus, ...], limit(max_length=32, map_keys=("name",))] = ()
    """What was measured for each variant."""
    published: Published | None = None
    """The version that this job published."""
