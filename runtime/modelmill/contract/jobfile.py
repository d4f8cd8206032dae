"""The job file: what one stage of a TrainingJob (or the resolve stage of a ModelService) has to do."""

from dataclasses import dataclass, field
from typing import Any

from modelmill.contract import CONTRACT_VERSION
from modelmill.contract.steps import Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """URIs as a pod sees them (volumes are `file://` by now). `test` is set for the evaluate stage alone."""

    train: str | None = None
    validation: str | None = None
    validation_fraction: float | None = None
    test: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gang:
    """How many pods train together, and how many processes each starts (0 = one a GPU, or one where there is none)."""

    workers: int = 1
    processes_per_worker: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    name: str
    tier: str | None = None
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """A bound on one metric. `no_worse_than` names a channel; `variant` None means every variant."""

    metric: str
    variant: str | None = None
    min: float | None = None
    max: float | None = None
    no_worse_than: str | None = None
    tolerance: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    every_steps: int = 50
    keep: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportTo:
    """Where launchers report. `ca` None means the system's authorities (or plain HTTP)."""

    url: str
    ca: str | None = None
    """PEM text of the certificate authority that signed the operator's certificate."""
    interval_seconds: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    channel: str = "stable"
    keep_versions: int = 0
    """Newest versions to keep; 0 keeps all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which variant of a version to serve; all unset means the smallest that the version offers as accurate as dense."""

    name: str | None = None
    tier: str | None = None
    max_drop: float | None = None
    prefer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolve:
    """For the resolve stage: a channel or a version, and how to choose the variant."""

    channel: str | None = None
    version: int | None = None
    selection: Selection = field(default_factory=Selection)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFile:
    stage: str
    """prepare | train | compress | evaluate | publish | resolve"""
    namespace: str
    name: str
    uid: str
    model: str
    registry: str
    """fsspec URL: `file:///modelmill/registry/...` or `s3://bucket/prefix`; empty for a script that names none."""
    contract: int = CONTRACT_VERSION
    recipe_path: str | None = None
    """Folder with the recipe's sources."""
    entrypoint: str | None = None
    """`module:Class` of the recipe."""
    script: tuple[str, ...] = ()
    """What follows torchrun on a command line, such as (train.py, --epochs, 5), instead of a recipe."""
    data: Data = field(default_factory=Data)
    gang: Gang = field(default_factory=Gang)
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    variants: tuple[Variant, ...] = ()
    """compress: the one to make; evaluate: all that were made."""
    metrics: tuple[str, ...] = ()
    gates: tuple[Gate, ...] = ()
    publish: Publish = field(default_factory=Publish)
    passed: tuple[str, ...] = ()
    """publish: the variants that passed their gates."""
    resolve: Resolve | None = None
    report: ReportTo | None = None
    stall_timeout_seconds: float = 600.0
