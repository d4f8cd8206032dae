"""The spec of a ModelService: serve one model, by name and channel or by version, and scale it with its traffic.

Everything here may change while the service runs. What changes the pods (version, variant, image, overrides) rolls out
as a new Deployment beside the old one, which serves until the new one is ready.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from modelmill_operator.api.common import (
    Duration,
    Fraction,
    Name,
    ObjectMeta,
    ObjectName,
    Record,
    Tier,
)
from modelmill_operator.api.model_service_status import ModelServiceStatus
from modelmill_operator.api.pod import RunsPods
from modelmill_operator.api.rules import Rule, exactly_one, short_name

# "<name>-resolve-<hash of 8>", a Job's name, and the Service's own name must stay below 64 characters.
MAX_NAME = 40


class ServedModel(Record, frozen=True, kw_only=True):
    RULES: ClassVar = (
        exactly_one(("channel", "version"), "spec.model needs exactly one of channel (follow it) and version (stay on it)"),
    )

    name: Name
    """Name of the model in the registry, and in the URL of requests."""
    channel: Name | None = None
    """Channel to follow, such as stable: when it moves to another version, that version rolls out by itself."""
    version: Annotated[int, Meta(ge=1, le=2147483647)] | None = None
    """Version to stay on."""


class ServedVariant(Record, frozen=True, kw_only=True):
    RULES: ClassVar = (
        exactly_one(("name", "tier", "maxDrop"), "spec.variant needs exactly one of name, tier and maxDrop"),
        Rule(
            "!has(self.prefer) || has(self.maxDrop)",
            "spec.variant.prefer only has a meaning with maxDrop: set maxDrop or remove prefer",
        ),
    )

    name: Name | None = None
    """Variant by its name; dense is the uncompressed model."""
    tier: Tier | None = None
    """Variant by the tier that its TrainingJob gave it."""
    max_drop: Fraction | None = None
    """Any variant whose measured accuracy is at most this much below the dense one, such as "0.01"."""
    prefer: Literal["Latency", "Size"] | None = None
    """Which of the variants within maxDrop: the fastest (Latency) or the smallest (Size). Left out: Latency."""


class Batcher(Record, frozen=True, kw_only=True):
    max_batch_size: Annotated[int, Meta(ge=1, le=4096)] = 32
    """Most samples in one forward pass. 1 turns batching off. Raise it while throughput grows and memory lasts."""
    max_latency: Duration = "5ms"
    """Longest that a request waits for others to join its batch while the model is busy. Lower it when latency
    matters more than throughput."""
    instances: Annotated[int, Meta(ge=0, le=256)] = 0
    """Batches that run at once in a pod. 0 measures at the start whether as many as there are processors bring more than
    threads within a batch do. Set 1 when memory is short."""


class SecretKey(Record, frozen=True, kw_only=True):
    name: ObjectName
    """Name of the Secret, in the service's namespace."""
    key: Annotated[str, Meta(min_length=1, max_length=253)] = "apiKey"
    """Key in the Secret."""


class TlsSecret(Record, frozen=True, kw_only=True):
    secret_name: ObjectName
    """Secret with tls.crt and tls.key, as cert-manager writes it. A renewed certificate is picked up without a restart."""


class Security(Record, frozen=True, kw_only=True):
    RULES: ClassVar = (
        Rule(
            "self.auth != 'ApiKey' || has(self.apiKeySecret)",
            "spec.security.auth ApiKey needs the key: set spec.security.apiKeySecret.name",
        ),
    )

    auth: Literal["None", "ApiKey"] = "None"
    """None: whoever reaches the Service may predict. ApiKey: requests carry the key as `Authorization: Bearer KEY` or
    in the header X-API-Key."""
    api_key_secret: SecretKey | None = None
    """Where the API key is."""
    tls: TlsSecret | None = None
    """Serve HTTPS with this certificate. Left out: plain HTTP."""


class Ingress(Record, frozen=True, kw_only=True):
    host: Annotated[str, Meta(min_length=1, max_length=253, pattern="^[a-z0-9*]([-.a-z0-9]*[a-z0-9])?$")]
    """Host name under which the service is reached."""
    class_name: ObjectName | None = None
    """IngressClass to use. Left out: the cluster's default."""
    tls_secret_name: ObjectName | None = None
    """Secret with the certificate for the host. Left out: plain HTTP at the ingress."""


class Expose(Record, frozen=True, kw_only=True):
    service_type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    """ClusterIP: reached inside the cluster only. NodePort and LoadBalancer: also from outside."""
    port: Annotated[int, Meta(ge=1, le=65535)] = 80
    """Port of the Service. 443 is usual with spec.security.tls."""
    ingress: Ingress | None = None
    """Create an Ingress for the Service. Left out: none."""


class Rollout(Record, frozen=True, kw_only=True):
    progress_deadline: Duration = "10m"
    """How long a new version may take to become ready before the rollout counts as failed. The old version serves on
    either way. Raise it for large models."""


class ModelServiceSpec(RunsPods, frozen=True, kw_only=True):
    RULES: ClassVar = (
        Rule(
            "self.minReplicas <= self.maxReplicas",
            "spec.minReplicas is larger than spec.maxReplicas: lower minReplicas or raise maxReplicas",
        ),
        Rule(
            "duration(self.stableWindow) >= duration('6s') && duration(self.stableWindow) <= duration('1h')",
            "spec.stableWindow must be between 6s and 1h: a shorter one makes replicas flap, a longer one makes scaling blind",
        ),
        Rule(
            "duration(self.scaleDownDelay) <= duration('1h')",
            "spec.scaleDownDelay must be at most 1h",
        ),
        Rule(
            "self.containerConcurrency == 0 || self.containerConcurrency >= self.batcher.maxBatchSize",
            "spec.containerConcurrency is smaller than spec.batcher.maxBatchSize, so batches never "
            "fill: raise containerConcurrency or lower maxBatchSize",
        ),
    )

    model: ServedModel
    """Which model to serve."""
    variant: ServedVariant = ServedVariant(name="dense")
    """Which form of the model to serve: by name, by tier, or whatever loses little accuracy."""
    autoscaling: Literal["BuiltIn", "External"] = "BuiltIn"
    """BuiltIn: replicas follow traffic between minReplicas and maxReplicas. External: replicas follow spec.replicas,
    which you, an HPA or KEDA set through the scale subresource."""
    replicas: Annotated[int, Meta(ge=0, le=10000)] = 1
    """Number of pods. Only read when autoscaling is External; never written by the operator."""
    min_replicas: Annotated[int, Meta(ge=1, le=10000)] = 1
    """Fewest pods when autoscaling is BuiltIn. 2 or more keeps serving through the loss of a node."""
    max_replicas: Annotated[int, Meta(ge=1, le=10000)] = 3
    """Most pods when autoscaling is BuiltIn."""
    scale_metric: Literal["Concurrency"] = "Concurrency"
    """What scaling looks at. Concurrency: requests in flight."""
    scale_target: Annotated[int, Meta(ge=1, le=100000)] = 100
    """Requests in flight that one pod can take; the autoscaler aims at 70 % of it. When containerConcurrency is set and
    smaller, that counts instead. Lower it when latency grows before pods are added."""
    container_concurrency: Annotated[int, Meta(ge=0, le=100000)] = 0
    """Most requests in flight in one pod; further ones wait in the pod's queue. 0: no limit."""
    stable_window: Duration = "60s"
    """Time over which traffic is averaged before scaling; a tenth of it decides on bursts. Between 6s and 1h."""
    scale_down_delay: Duration = "0s"
    """How long less traffic must last before pods are taken away. Raise it when starting a pod is slow. At most 1h."""
    batcher: Batcher = Batcher()
    """How requests are joined into one forward pass."""
    timeout: Duration = "60s"
    """Longest that a request may take, waiting included; then it is answered with 504. Also how long a pod may take to
    finish its requests when it is stopped, and how long (at least 10s) the model may compute before the pod counts as
    hung and is started anew."""
    max_request_bytes: Annotated[int, Meta(ge=1024, le=1073741824)] = 16777216
    """Largest request body in bytes; a larger one is answered with 413. Raise it for large images or batches."""
    queue_limit: Annotated[int, Meta(ge=1, le=1000000)] = 256
    """Requests that may wait in one pod; further ones are answered with 503 and Retry-After."""
    security: Security = Security()
    """Who may send requests, and whether they are encrypted."""
    expose: Expose = Expose()
    """Where the service is reached."""
    rollout: Rollout = Rollout()
    """How a new version replaces the old one."""
    revision_history_limit: Annotated[int, Meta(ge=0, le=20)] = 1
    """Replaced versions whose Deployments are kept, with no pods, so that going back to them is quick."""


class ModelService(Record, frozen=True, kw_only=True):
    RULES: ClassVar = (short_name(MAX_NAME, because="the Service has the same name"),)

    metadata: ObjectMeta
    spec: ModelServiceSpec
    status: ModelServiceStatus = ModelServiceStatus()
