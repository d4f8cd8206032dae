"""The spec of a TrainingJob: train on many pods, compress, evaluate on held-out data, publish what passes.

Stages follow from what is filled in: `prepare -> train -> compress -> evaluate -> publish`, empty ones are left out.
What a finished stage was built from cannot change while the job exists (`immutable` rules); how the job is run
(suspend, deadlines, restarts, overrides of pods, gates) can.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, field

from modelmill_operator.api.common import (
    Decimal,
    Duration,
    Fraction,
    Name,
    ObjectMeta,
    ObjectName,
    Record,
    SecretName,
    Text,
)
from modelmill_operator.api.compression import DENSE, Compression, VariantName
from modelmill_operator.api.pod import Resources, RunsPods
from modelmill_operator.api.rules import Rule, exactly_one, immutable, limit, short_name
from modelmill_operator.api.training_status import TrainingJobStatus

Metric = Literal["accuracy", "recall", "f1", "auc", "loss"]
DataUri = Annotated[str, Meta(max_length=1024, pattern=r"^(pvc|configmap|secret|s3|https|file)://.+")]
# Job names end in "-compress-<variant>" and may have 63 characters: 38 + 10 + 15.
MAX_NAME = 38


class TrainedModel(Record, frozen=True, kw_only=True):
    name: Name
    """Name of the model: the job publishes a new version of it, and a ModelService serves it under this name."""


class Recipe(Record, frozen=True, kw_only=True):
    config_map: ObjectName | None = None
    """ConfigMap with the recipe's Python files. Leave out when the image contains them."""
    entrypoint: Annotated[str, Meta(max_length=253, pattern="^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$")]
    """MODULE:CLASS of the recipe, such as "recipe:Digits" for class Digits in recipe.py."""


class DataSource(Record, frozen=True, kw_only=True):
    uri: DataUri
    """Where the data is: pvc://CLAIM/PATH, configmap://NAME/KEY, secret://NAME/KEY, s3://BUCKET/KEY, https://..., or
    file:///PATH inside the image."""
    credentials: SecretName | None = None
    """Secret with the store's credentials, for s3://."""


class Validation(Record, frozen=True, kw_only=True):
    RULES: ClassVar = (
        exactly_one(
            ("uri", "fraction"),
            "spec.data.validation needs exactly one of uri (data of its own) and fraction (a part of the training data)",
        ),
    )

    uri: DataUri | None = None
    """Validation data of its own; same forms as spec.data.train.uri, same credentials."""
    fraction: Fraction | None = None
    """Part of the training data to hold back for validation, such as "0.1". The split follows from spec.seed."""


class Data(Record, frozen=True, kw_only=True):
    train: DataSource | None = None
    """Data that the training pods read."""
    validation: Validation | None = None
    """Data for watching the loss while training. Training pods see it."""
    test: DataSource | None = None
    """Held-out data. Only the evaluator gets its volume and credentials; training pods never do. Needed by
    spec.evaluation.gates."""


class Gang(Record, frozen=True, kw_only=True):
    workers: Annotated[int, Meta(ge=1, le=1024)] = 1
    """Pods of the gang. All of them start, or none does."""
    processes_per_worker: Annotated[int, Meta(ge=0, le=64)] = 0
    """Ranks in each pod. 0: one for each GPU of the pod, or one where there is none."""


class Strategy(Record, frozen=True, kw_only=True):
    RULES: ClassVar = (
        exactly_one(
            ("dataParallel", "script"),
            "spec.strategy needs exactly one key: dataParallel (with spec.recipe) or script (with spec.script)",
        ),
    )

    data_parallel: Gang | None = None
    """Every rank holds the whole model and sees its share of each batch; gradients are averaged (DDP: gloo on CPU, nccl
    on GPU)."""
    script: Gang | None = None
    """The program in spec.script is started once a rank, with the environment that torchrun would give it."""


class Checkpoint(Record, frozen=True, kw_only=True):
    every_steps: Annotated[int, Meta(ge=1, le=2147483647)] = 100
    """Optimizer steps between two checkpoints: at most this much work is lost when a pod dies. Lower it for long steps."""
    keep: Annotated[int, Meta(ge=1, le=1000)] = 2
    """Complete checkpoints to keep; older ones are deleted."""


class Recovery(Record, frozen=True, kw_only=True):
    max_restarts: Annotated[int, Meta(ge=0, le=10000)] = 10
    """How often the gang may start again after a pod or a rank died, before the job fails. Errors in user code (an
    import that fails) are not retried."""
    stall_timeout: Duration = "5m"
    """How long running ranks may make no step before the gang is started again. Raise it when one step, or loading the
    data, takes longer."""


class Gate(Record, frozen=True, kw_only=True):
    RULES: ClassVar = (
        Rule(
            "has(self.min) || has(self.max) || has(self.noWorseThan)",
            "an evaluation gate needs a bound: set min, max or noWorseThan",
        ),
        Rule(
            "!has(self.tolerance) || has(self.noWorseThan)",
            "an evaluation gate's tolerance only has a meaning with noWorseThan: set noWorseThan or remove tolerance",
        ),
    )

    variant: VariantName | None = None
    """Variant that must pass; dense is the uncompressed model. Left out: every variant must."""
    metric: Metric
    """Metric to judge, one of spec.evaluation.metrics."""
    min: Decimal | None = None
    """Smallest value that passes, such as "0.85"."""
    max: Decimal | None = None
    """Largest value that passes: for loss."""
    no_worse_than: Name | None = None
    """Channel whose current version must not be better, such as stable. Passes when the channel is still empty."""
    tolerance: Decimal | None = None
    """How much worse than the channel's version is still accepted, such as "0.005". Left out: nothing."""


class Evaluation(Record, frozen=True, kw_only=True):
    RULES: ClassVar = (
        Rule(
            "!has(self.gates) || self.gates.all(gate, gate.metric in self.metrics)",
            "every metric in spec.evaluation.gates must also be listed in spec.evaluation.metrics",
        ),
    )

    metrics: Annotated[tuple[Metric, ...], limit(min_length=1, max_length=5, unique=True)] = ("accuracy", "recall", "f1", "auc")
    """What to measure on the held-out data, for each variant. recall, f1 and auc are averaged over classes."""
    gates: Annotated[tuple[Gate, ...], Meta(max_length=32)] = ()
    """Bounds that a variant must meet to be published. With no variant left the job fails, with the numbers."""


class Publish(Record, frozen=True, kw_only=True):
    channel: Name = "stable"
    """Channel that points to the new version once it is published; a ModelService follows it."""
    keep_versions: Annotated[int, Meta(ge=1, le=100000)] | None = None
    """Newest versions of the model to keep in the registry; older ones are deleted unless a channel points to them.
    Left out: all are kept."""


class Scheduling(Record, frozen=True, kw_only=True):
    queue: Annotated[str, Meta(max_length=63)] | None = None
    """Kueue LocalQueue: passed on as the label kueue.x-k8s.io/queue-name. Left out: no queue."""
    gang_timeout: Duration = "30s"
    """How long a part of the gang may hold its nodes while other pods find no room. Then all give their place back and
    the gang is tried again later. Raise it where nodes are added on demand."""


class TrainingJobSpec(RunsPods, frozen=True, kw_only=True):
    RULES: ClassVar = (
        exactly_one(
            ("recipe", "script"),
            "spec needs exactly one of recipe (a Recipe class) and script (a program that torchrun would start)",
        ),
        Rule(
            "!has(self.strategy) || has(self.strategy.script) == has(self.script)",
            "spec.strategy does not fit: use strategy.dataParallel with spec.recipe, strategy.script with spec.script",
        ),
        Rule(
            "!has(self.recipe) || (has(self.data) && has(self.data.train))",
            "spec.data.train is missing: a recipe needs training data; set spec.data.train.uri",
        ),
        Rule(
            "!has(self.script) || !has(self.compression)",
            "spec.compression needs spec.recipe: what a script trains cannot be compressed; remove spec.compression",
        ),
        Rule(
            "!has(self.script) || !has(self.evaluation)",
            "spec.evaluation needs spec.recipe: what a script trains cannot be evaluated; remove spec.evaluation",
        ),
        Rule(
            "!has(self.evaluation) || (has(self.data) && has(self.data.test))",
            "spec.evaluation needs held-out data: set spec.data.test.uri",
        ),
        Rule(
            f"!has(self.evaluation) || !has(self.evaluation.gates) || self.evaluation.gates.all(gate, "
            f"!has(gate.variant) || gate.variant == '{DENSE}' || "
            "(has(self.compression) && has(self.compression.variants) && "
            "self.compression.variants.exists(variant, variant.name == gate.variant)))",
            "spec.evaluation.gates names a variant that does not exist: use dense or a name from spec.compression.variants",
        ),
        *(
            immutable(name, "create a new TrainingJob")
            for name in (
                "model",
                "registry",
                "recipe",
                "script",
                "data",
                "strategy",
                "hyperparameters",
                "seed",
                "compression",
                "managedBy",
            )
        ),
        Rule(
            "self.publish.channel == oldSelf.publish.channel",
            "spec.publish.channel cannot change once the resource exists: create a new TrainingJob, "
            "or promote the version afterwards",
        ),
    )

    model: TrainedModel
    """The model that this job makes a version of. Cannot change."""
    recipe: Recipe | None = None
    """A class that says what the model, its data and its loss are. Exactly one of recipe and script. Cannot change."""
    script: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=64)] = ()
    """What you would write after torchrun and its own options: a Python file and its arguments, such as [/app/train.py,
    --epochs, "5"], or [-m, package.module]. It is trained only: compressing, evaluating and publishing need a recipe.
    Cannot change."""
    data: Data = Data()
    """Data to train, validate and evaluate on. Cannot change."""
    strategy: Strategy | None = None
    """How training is spread over pods. Left out: one pod with one process. Cannot change."""
    hyperparameters: Annotated[dict[str, int | Text], Meta(max_length=64)] = field(default_factory=dict)
    """Passed to the recipe. Whole numbers or strings; write a fraction as a string, such as {lr: "0.001", batchSize:
    128, epochs: 5}. Cannot change."""
    seed: Annotated[int, Meta(ge=0, le=2147483647)] = 0
    """Start of every random sequence: the same seed, data and number of ranks give the same weights on CPU. Cannot change."""
    checkpoint: Checkpoint = Checkpoint()
    """How often progress is saved."""
    recovery: Recovery = Recovery()
    """What happens when pods die."""
    compression: Compression | None = None
    """Smaller forms to make of the trained model. Left out: only the dense one. Cannot change."""
    evaluation: Evaluation | None = None
    """What to measure on held-out data before publishing. Left out: nothing is measured, everything is published."""
    publish: Publish = Publish()
    """Where the new version goes."""
    suspend: bool = False
    """True deletes the job's pods and keeps its checkpoints; false goes on from the newest one."""
    managed_by: Annotated[str, Meta(max_length=63)] | None = None
    """Set to another controller's name to make this operator ignore the job (MultiKueue does). Left out: this operator.
    Cannot change."""
    active_deadline_seconds: Annotated[int, Meta(ge=1, le=2147483647)] | None = None
    """Seconds from its start after which an unfinished job fails. Time spent suspended does not count. Left out: no limit."""
    ttl_seconds_after_finished: Annotated[int, Meta(ge=0, le=2147483647)] | None = None
    """Seconds after which a finished job is deleted; versions that it published stay. Left out: it is kept."""
    scheduling: Scheduling = Scheduling()
    """How the job waits for its turn."""
    stage_resources: Resources | None = None
    """Resources of the pods that prepare, compress, evaluate and publish. Left out: those of spec.pod.resources without
    accelerators."""

    @property
    def gang(self) -> Gang:
        """How many pods and ranks train, whichever key of the strategy says so."""
        if self.strategy is None:
            return Gang()
        return self.strategy.data_parallel or self.strategy.script or Gang()


class TrainingJob(Record, frozen=True, kw_only=True):
    RULES: ClassVar = (short_name(MAX_NAME, because="the names of pods are made from it"),)

    metadata: ObjectMeta
    spec: TrainingJobSpec
    status: TrainingJobStatus = TrainingJobStatus()
