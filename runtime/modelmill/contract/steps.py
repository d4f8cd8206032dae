"""The steps of a variant, as the compress stage gets them. Meanings and bounds are told in the TrainingJob's API."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    epochs: float = 1.0
    lr: float = 0.01
    batch_size: int = 128
    optimizer: str = "SGD"
    momentum: float = 0.9
    weight_decay: float = 0.0005
    schedule: str = "OneCycle"
    teacher: float = 0.5
    """Share of the loss that follows the trained dense model instead of the targets."""
    temperature: float = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prune:
    method: str = "Magnitude"
    threshold: float | None = None
    sparsity: float | None = None
    scope: str = "Global"
    pattern: str = "Unstructured"
    schedule: str = "Cubic"
    training: Training | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantize:
    method: str = "Uniform"
    bits: int | None = None
    granularity: str = "Channel"
    group_size: int = 64
    symmetric: bool = True
    clipping: str = "MinMax"
    activations: str = "Dynamic"
    fraction_bits: int | None = None
    modulus: int | None = None
    training: Training | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    clusters: int = 16
    training: Training | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Distill:
    method: str = "Simple"
    training: Training = Training()
    epsilon: float = 0.03
    """Adversarial: how far an input may be moved."""
    data_sets: int = 3
    """Simulated: how many are made."""
    weight: float | None = None
    """Features and Attention: of the inner activations in the loss; None: the method's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrate:
    method: str = "Select"


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    max_error: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    max_drop: float
    objective: str = "Latency"
    evaluations: int = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One compression step: exactly one of the fields is set."""

    prune: Prune | None = None
    quantize: Quantize | None = None
    share: Share | None = None
    distill: Distill | None = None
    migrate: Migrate | None = None
    low_rank: LowRank | None = None
    tune: Training | None = None
    search: Search | None = None
