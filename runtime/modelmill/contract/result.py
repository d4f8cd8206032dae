"""What a stage leaves behind: one JSON object as the pod's termination message.

The kubelet keeps 4,096 bytes of it in the pod's status, so an operator that was away reads it later; long texts are
cut here, from the front of the log's tail, so that the last line survives.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modelmill.contract import CONTRACT_VERSION, codec, names

MAX_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    metric: str
    passed: bool
    value: float | None = None
    """None: the metric could not be measured; the gate then fails."""
    limit: float | None = None
    bound: str = "min"
    """min | max | noWorseThan:<channel>"""
    baseline: float | None = None
    """The channel's current value, for noWorseThan; None while the channel is empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantResult:
    name: str
    passed: bool = False
    bytes: int = 0
    """Size of the variant's weights file."""
    metrics: dict[str, float] = field(default_factory=dict)
    latency_millis: float | None = None
    """Median of one forward pass of one row, one thread, in the evaluator."""
    gates: tuple[GateResult, ...] = ()
    reason: str | None = None
    """Why it did not pass, in words with numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    version: int
    digest: str
    channel: str | None = None
    variants: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    version: int
    digest: str
    """sha256:<hex> of manifest.json"""
    variant: str
    file_bytes: int = 0
    engine: str | None = None
    """vllm for a generative model; None: the runtime itself serves it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    stage: str
    ok: bool
    contract: int = CONTRACT_VERSION
    reason: str | None = None
    message: str | None = None
    fatal: bool = False
    variants: tuple[VariantResult, ...] = ()
    """compress: the one that was made; evaluate: all."""
    published: Published | None = None
    resolved: Resolved | None = None
    steps: int | None = None
    loss: float | None = None
    details: dict[str, Any] = field(default_factory=dict)


def write(result: StageResult, *, path: str = names.PATH_TERMINATION) -> None:
    """Leaves the result as the termination message, shortened until it fits."""
    text = codec.dumps(result)
    while len(text.encode()) > MAX_BYTES and result.message:
        keep = max(0, len(result.message) - (len(text.encode()) - MAX_BYTES) - 16)
        result = replace(result, message="..." + result.message[-keep:] if keep else None)
        text = codec.dumps(result)
    if len(text.encode()) > MAX_BYTES:
        # Many variants: their gates can be had from the evaluation file in the workspace.
        result = replace(
            result, variants=tuple(replace(v, gates=(), reason=(v.reason or "")[:120] or None) for v in result.variants)
        )
        text = codec.dumps(result)
    Path(path).write_text(text)


def read(message: str) -> StageResult | None:
    """The result in a termination message; None when it is something else (a log's tail, say)."""
    try:
        return codec.loads(StageResult, message)
    except codec.ContractError:
        return None
