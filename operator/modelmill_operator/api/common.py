"""What both kinds share: metadata, conditions, and the small vocabulary of names, URIs, durations and secrets.

Numbers with a fraction are strings ("0.01") and times have a unit ("60s"), as the Kubernetes conventions ask: neither
changes meaning on its way through JSON, YAML and several languages. Bounds are wide; they are there because the API
server refuses a validation rule whose cost it cannot bound.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, field

from modelmill_operator.api.rules import limit
from modelmill_operator.api.times import DURATION_PATTERN

Duration = Annotated[str, Meta(max_length=20, pattern=DURATION_PATTERN)]
Decimal = Annotated[str, Meta(max_length=20, pattern=r"^-?[0-9]+(\.[0-9]+)?$")]
Fraction = Annotated[str, Meta(max_length=20, pattern=r"^0(\.[0-9]+)?$")]
# A lower-case name with hyphens: of a model, a channel, a variant.
Name = Annotated[str, Meta(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
# The name of another Kubernetes object.
ObjectName = Annotated[str, Meta(max_length=253, pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")]
Tier = Annotated[str, Meta(max_length=32, pattern=r"^[A-Za-z][A-Za-z0-9-]*$")]
Text = Annotated[str, Meta(max_length=1024)]
Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]


class Record(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base of every part of a resource: immutable, camelCase in JSON, absent fields left out."""


class Observed(Record, frozen=True, kw_only=True):
    """Base of every part of a status: the API server fills in nothing, so what was written is what is read back."""


class ObjectMeta(Record, frozen=True, kw_only=True):
    """The part of an object's metadata that decisions depend on."""

    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None


class SecretName(Record, frozen=True, kw_only=True):
    secret_name: ObjectName
    """Secret in the resource's namespace; each of its keys becomes an environment variable of the pods that need it."""


class Registry(Record, frozen=True, kw_only=True):
    uri: Annotated[str, Meta(max_length=1024, pattern="^(pvc|s3)://[^/]+(/.*)?$")]
    """Where models are kept: pvc://CLAIM/PATH for a PersistentVolumeClaim in this namespace (ReadWriteMany if pods run
    on several nodes), or s3://BUCKET/PREFIX."""
    credentials: SecretName | None = None
    """Secret with the store's credentials, for S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, where it is not AWS,
    AWS_ENDPOINT_URL. Leave out for a pvc:// registry."""


class Condition(Observed, frozen=True, kw_only=True):
    """One observation, in the form that `kubectl wait --for=condition=...` understands."""

    type: Annotated[str, Meta(max_length=63)]
    """What is observed."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, Meta(max_length=128)]
    """One CamelCase word for programs."""
    message: Annotated[str, Meta(max_length=32768)] = ""
    """A sentence for people: what was seen, and what to do about it."""
    observed_generation: Annotated[int, Meta(ge=0)] = 0
    """The metadata.generation that this was observed for."""
    last_transition_time: Time | None = None
    """When the status last changed."""


class Status(Observed, frozen=True, kw_only=True):
    """What the status of both kinds begins with."""

    observed_generation: Annotated[int, Meta(ge=0)] = 0
    """The metadata.generation that this status describes."""
    conditions: Annotated[tuple[Condition, ...], limit(max_length=32, map_keys=("type",))] = ()
    """What was observed: the truth about the resource. A condition that is absent is unknown."""

    def condition(self, kind: str) -> Condition | None:
        return next((condition for condition in self.conditions if condition.type == kind), None)


def to_raw(record: Record) -> dict[str, Any]:
    """The record as the API server would return it: dicts and lists, defaults left out."""
    raw: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(record))
    return raw
