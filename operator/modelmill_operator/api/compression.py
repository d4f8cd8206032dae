"""spec.compression: what to make of the trained model, step by step."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from modelmill_operator.api.common import Decimal, Fraction, Record, Tier
from modelmill_operator.api.rules import Rule, exactly_one, limit

DENSE = "dense"
# Job names end in "-compress-<variant>" and may have 63 characters: 38 + 10 + 15.
MAX_VARIANT = 15
VariantName = Annotated[str, Meta(max_length=MAX_VARIANT, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]


class Training(Record, frozen=True, kw_only=True):
    epochs: Decimal = "1"
    """How often the training data is seen, such as "0.5"."""
    lr: Decimal = "0.01"
    """Largest learning rate."""
    batch_size: Annotated[int, Meta(ge=1, le=1000000)] = 128
    """Rows of a step."""
    optimizer: Literal["SGD", "AdamW"] = "SGD"
    """SGD: with Nesterov's momentum. AdamW: for transformers."""
    momentum: Fraction = "0.9"
    """Momentum, for SGD."""
    weight_decay: Decimal = "0.0005"
    """Decay of weights."""
    schedule: Literal["OneCycle", "Cosine", "Constant"] = "OneCycle"
    """How the learning rate changes. OneCycle: up for three tenths of the steps, then down."""
    teacher: Fraction = "0.5"
    """Share of the loss that follows the trained dense model's outputs instead of the targets."""
    temperature: Decimal = "4"
    """Softness of the teacher's classes (Hinton 2015)."""


class Prune(Record, frozen=True, kw_only=True):
    RULES: ClassVar = (
        Rule(
            "has(self.threshold) == (self.method == 'Threshold') && has(self.sparsity) == (self.method != 'Threshold')",
            "a prune step needs threshold for method Threshold, and sparsity for every other method",
        ),
        Rule(
            "!(self.method in ['LearnedMask', 'AdaGrad']) || has(self.training)",
            'a prune step with method LearnedMask or AdaGrad decides while training: set training, such as {epochs: "1"}',
        ),
        Rule(
            "!(self.method in ['Threshold', 'Channels', 'Heads']) || self.pattern == 'Unstructured'",
            "a prune step with method Threshold, Channels or Heads has no pattern: remove pattern",
        ),
        Rule(
            "!(self.method in ['LearnedMask', 'AdaGrad']) || self.pattern != '2:4'",
            "a prune step with method LearnedMask or AdaGrad learns masks of weights or blocks: "
            "use Magnitude, Gradient or Wanda for pattern 2:4",
        ),
        Rule(
            "!(self.pattern == '2:4') || self.sparsity == '0.5'",
            'a prune step with pattern 2:4 removes half of the weights: set sparsity to "0.5"',
        ),
    )

    method: Literal["Threshold", "Magnitude", "Gradient", "Wanda", "Channels", "Heads", "LearnedMask", "AdaGrad"] = "Magnitude"
    """What goes. Threshold: weights of at most this magnitude. Magnitude: the smallest. Gradient: those with the least
    first-order effect on the loss. Wanda: the smallest times the norm of their input. Channels: whole channels, so that
    the module itself becomes smaller. Heads: whole heads of attention. LearnedMask: a trained binary variable for each
    weight or block decides. AdaGrad: the accumulated squared gradient decides."""
    threshold: Decimal | None = None
    """Magnitude up to which a weight becomes zero, such as "0.01", for Threshold."""
    sparsity: Fraction | None = None
    """Part of the weights that goes, such as "0.5"; for Channels, part of the multiplications; for Heads, of the heads."""
    scope: Literal["Global", "Layer"] = "Global"
    """Whether the sparsity is that of all layers together, or of each one."""
    pattern: Literal["Unstructured", "16x1", "4x1", "2:4"] = "Unstructured"
    """What goes together. Unstructured makes a file smaller and nothing faster; blocks of 16 or 4 output channels are computed
    on faster from about "0.7"; 2:4 is half of each four inputs."""
    schedule: Literal["Constant", "Linear", "Cubic"] = "Cubic"
    """How the sparsity grows while training (Zhu and Gupta 2017)."""
    training: Training | None = None
    """Training after the pruning, or with it. Left out: none."""


class Quantize(Record, frozen=True, kw_only=True):
    RULES: ClassVar = (
        Rule(
            "self.method == 'Residue' ? has(self.modulus) : !has(self.modulus)",
            "a quantize step's modulus belongs to method Residue, which needs it",
        ),
        Rule(
            "!has(self.fractionBits) || self.method in ['FixedPoint', 'Residue']",
            "a quantize step's fractionBits belongs to methods FixedPoint and Residue: remove it",
        ),
    )

    method: Literal[
        "Uniform",
        "FixedPoint",
        "Residue",
        "DynamicRange",
        "NormalFloat",
        "KMeans",
        "Steps",
        "Binary",
        "XNOR",
        "Ternary",
        "BFloat16",
    ] = "Uniform"
    """Which values weights may take. Uniform: evenly spaced. FixedPoint: round(w * 2^p). Residue: round(w * 2^p) mod q.
    DynamicRange: a sign and a magnitude. NormalFloat: quantiles of a Gaussian (NF4). KMeans: trained centroids. Steps: a step
    function learned from the weights. Binary: -s or s. XNOR: Binary, and activations are signs too.
    Ternary: -s, 0 or s. BFloat16: all weights, and the computation where the node has instructions for it, in 16 bits."""
    bits: Annotated[int, Meta(ge=1, le=8)] | None = None
    """Bits of a weight, where the method leaves a choice. Left out: 8, or 4 for NormalFloat, KMeans and Steps."""
    granularity: Literal["Tensor", "Channel", "Group"] = "Channel"
    """Who shares a scale: a whole weight, an output channel, or groupSize inputs of one. Use Group at 4 bits and below."""
    group_size: Annotated[int, Meta(ge=4, le=4096)] = 64
    """Inputs that share a scale, for granularity Group."""
    symmetric: bool = True
    """Uniform: whether the values lie evenly around zero."""
    clipping: Literal["MinMax", "Percentile", "MSE"] = "MinMax"
    """What of the largest weights is cut off for finer steps. MinMax: nothing. Percentile: 0.1 %. MSE: what makes the squared
    error smallest. Also how the range of activations is chosen from data."""
    activations: Literal["Dynamic", "Static"] = "Dynamic"
    """Dynamic: each row of activations gets its own 8-bit scale when it comes. Static: a layer has one, from training data."""
    fraction_bits: Annotated[int, Meta(ge=-32, le=64)] | None = None
    """p of FixedPoint and Residue. Left out: the one with the smallest error."""
    modulus: Annotated[int, Meta(ge=3, le=256)] | None = None
    """q of Residue."""
    training: Training | None = None
    """Training with the rounding in place (quantization-aware). Left out: none."""


class Share(Record, frozen=True, kw_only=True):
    clusters: Annotated[int, Meta(ge=2, le=256)] = 16
    """Different values that the weights of a layer share: 16 take 4 bits each, 4 take 2."""
    training: Training | None = None
    """Training of the shared values. Left out: none."""


class Distill(Record, frozen=True, kw_only=True):
    method: Literal["Simple", "Adversarial", "Simulated", "Features", "Attention"] = "Simple"
    """What is learned from the trained dense model. Simple: its outputs (Hinton 2015). Adversarial: its outputs on inputs moved
    to where it errs. Simulated: its outputs on made-up inputs, several sets of them; the best is kept. Features and Attention:
    its inner activations, or where they are large, besides its outputs."""
    training: Training = Training(teacher="0.9")
    """How long, and how."""
    epsilon: Decimal = "0.03"
    """How far an input may be moved, for Adversarial."""
    data_sets: Annotated[int, Meta(ge=1, le=16)] = 3
    """How many sets of inputs are made up, for Simulated."""
    weight: Decimal | None = None
    """How much inner activations count in the loss beside the outputs, for Features and Attention. Left out: 25 and 1."""


class Migrate(Record, frozen=True, kw_only=True):
    method: Literal["Select", "Slice", "Average"] = "Select"
    """How weights of the trained model come into the smaller one that the recipe's student() makes. Select: evenly spaced
    channels. Slice: the first ones. Average: means of neighbours."""


class LowRank(Record, frozen=True, kw_only=True):
    max_error: Fraction = "0.1"
    """Part of a weight's norm that may be lost. Layers that would not become smaller stay as they are."""


class Search(Record, frozen=True, kw_only=True):
    max_drop: Fraction
    """How much accuracy may be lost against the dense model, measured on rows of the training data that the search has not seen,
    such as "0.01"; where the model gives no classes, the relative error of its outputs."""
    objective: Literal["Latency", "Size"] = "Latency"
    """What becomes as small as possible. Latency: the time of one row on this node. Size: the bytes of the file."""
    evaluations: Annotated[int, Meta(ge=1, le=32)] = 6
    """How many candidates are measured as whole models. Each halves what is left of the range."""


STEPS = ("prune", "quantize", "share", "distill", "migrate", "lowRank", "tune", "search")


class Step(Record, frozen=True, kw_only=True):
    RULES: ClassVar = (
        exactly_one(
            STEPS,
            "a compression step needs exactly one key: prune, quantize, share, distill, migrate, lowRank, tune or search; "
            "write two steps to do both",
        ),
    )

    prune: Prune | None = None
    """Take weights or channels away."""
    quantize: Quantize | None = None
    """Store weights with fewer bits. The last step, but for share."""
    share: Share | None = None
    """Let weights share few values."""
    distill: Distill | None = None
    """Learn from the trained dense model."""
    migrate: Migrate | None = None
    """Begin with the recipe's student(), and the trained model's weights in it. The first step."""
    low_rank: LowRank | None = None
    """Replace a layer by two thinner ones."""
    tune: Training | None = None
    """Train on."""
    search: Search | None = None
    """Choose for each layer how it is stored, within a budget of accuracy. The last step, in quantize's place."""


class Variant(Record, frozen=True, kw_only=True):
    RULES: ClassVar = (
        Rule(
            f"self.name != '{DENSE}'",
            "spec.compression.variants: the name dense is taken by the uncompressed model, "
            "which is always there; choose another name",
        ),
    )

    name: VariantName
    """Name of the variant, unique in the job."""
    tier: Tier | None = None
    """A word for the kind of machine that the variant is meant for, such as Light; a ModelService may ask for a variant
    by it."""
    steps: Annotated[tuple[Step, ...], Meta(min_length=1, max_length=8)]
    """What is done to the trained weights, in this order."""


class Compression(Record, frozen=True, kw_only=True):
    variants: Annotated[tuple[Variant, ...], limit(max_length=16, map_keys=("name",))] = ()
    """Compressed forms of the trained model. The dense one is always there."""
