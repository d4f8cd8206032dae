"""The service file: what one serving pod loads and how it serves, fixed by the operator in the pod template.

The digest comes from the operator; a pod never resolves a channel for serving, so a changed store fails closed.
"""

from dataclasses import dataclass, field

from modelmill.contract import CONTRACT_VERSION, names

VLLM = "vllm"
"""The engine of generative models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batcher:
    max_batch_size: int = 32
    """Rows in one execution."""
    max_latency_seconds: float = 0.002
    """How long rows may wait for company while the executor is busy; an idle executor starts at once."""
    instances: int = 0
    """Batches that run at once; 0: as many as the pod has processors where that brings more than threads within a batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    certificate_file: str
    key_file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceFile:
    namespace: str
    service: str
    model: str
    version: int
    digest: str
    """sha256:<hex> of manifest.json"""
    variant: str
    registry: str
    engine: str | None = None
    """vllm for a generative model; None: the runtime itself serves it."""
    contract: int = CONTRACT_VERSION
    channel: str | None = None
    """Watched only to tell the operator that it moved (`/load`), never to load from."""
    batcher: Batcher = field(default_factory=Batcher)
    container_concurrency: int = 0
    """Requests handled at once by this pod, 0 = no limit of its own; beyond it they wait in the queue."""
    queue_limit: int = 256
    """Requests that may wait; beyond it the answer is 503 with Retry-After."""
    timeout_seconds: float = 60.0
    max_request_bytes: int = 16 << 20
    hang_seconds: float = 60.0
    """An execution that takes longer than this makes the pod not live."""
    drain_seconds: float = 20.0
    """After SIGTERM: how long requests in flight may take."""
    api_key_file: str | None = None
    tls: Tls | None = None
    port: int = names.PORT_SERVE
    admin_port: int = names.PORT_ADMIN
    grpc_port: int = names.PORT_GRPC
