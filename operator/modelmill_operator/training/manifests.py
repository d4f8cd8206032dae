"""The children of a TrainingJob: pods of the gang, and Jobs of the other stages.

Only `evaluate` mounts the held-out data and gets its credentials. Pods of the gang are operator-owned (the Job
controller's back-off would cost 10 s and more for each restart); the other stages are plain Jobs.
"""

from dataclasses import replace

from modelmill.contract import codec, jobfile, names
from modelmill_operator.actions import Object
from modelmill_operator.api import times
from modelmill_operator.api.compression import DENSE, Variant
from modelmill_operator.api.pod import Resources
from modelmill_operator.api.training_job import Gate, TrainingJob
from modelmill_operator.settings import Settings
from modelmill_operator.training.convert import convert
from modelmill_operator.workload import pod, registry
from modelmill_operator.workload.mounts import Mounts

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
GRACE_SECONDS = 30
STAGE_RETRIES = 2
# An unreachable node costs 5 minutes by default before its pods are replaced.
LOST_NODE_SECONDS = 30


def worker_name(job: TrainingJob, index: int) -> str:
    return f"{job.metadata.name}-worker-{index}"


def worker(job: TrainingJob, owner: Object, *, index: int, attempt: int, settings: Settings) -> Object:
    """Pod `index` of the gang."""
    mounts = Mounts()
    file = replace(_job_file(job, "train", mounts, settings=settings), data=_training_data(job, mounts))
    env = {names.ENV_INDEX: str(index), names.ENV_ATTEMPT: str(attempt)}
    mounts.add("token", source=_token(settings), path=names.PATH_TOKEN.rpartition("/")[0])
    spec = _pod_spec(job, file, mounts, env=env, resources=job.spec.pod.resources, settings=settings)
    lost = [
        {
            "key": f"node.kubernetes.io/{taint}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": LOST_NODE_SECONDS,
        }
        for taint in ("not-ready", "unreachable")
    ]
    labels = {names.LABEL_INDEX: str(index), **_queue(job)}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": pod.metadata(
            worker_name(job, index), owner=owner, role=names.ROLE_WORKER, overrides=job.spec.pod, labels=labels
        ),
        "spec": {
            **spec,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            "tolerations": [*lost, *spec["tolerations"]],
        },
    }


def stage_name(job: TrainingJob, stage: str) -> str:
    return f"{job.metadata.name}-{stage}"


def prepare(job: TrainingJob, owner: Object, *, settings: Settings) -> Object:
    mounts = Mounts()
    file = replace(_job_file(job, "prepare", mounts, settings=settings), data=_training_data(job, mounts))
    return _stage_job(job, owner, file, mounts, settings=settings)


def compress(job: TrainingJob, owner: Object, *, variant: Variant, settings: Settings) -> Object:
    mounts = Mounts()
    file = replace(
        _job_file(job, "compress", mounts, settings=settings),
        variants=(convert(variant, jobfile.Variant),),
        data=_training_data(job, mounts),
    )
    return _stage_job(job, owner, file, mounts, settings=settings, variant=variant.name)


def evaluate(job: TrainingJob, owner: Object, *, made: tuple[str, ...], settings: Settings) -> Object:
    assert job.spec.evaluation is not None
    mounts = Mounts()
    test = job.spec.data.test
    uri = mounts.uri(test.uri, name="test-data", path=f"{names.PATH_DATA}/test") if test else None
    file = replace(
        _job_file(job, "evaluate", mounts, settings=settings),
        data=jobfile.Data(test=uri),
        variants=_variants(job, made),
        metrics=tuple(job.spec.evaluation.metrics),
        gates=tuple(_gate(gate) for gate in job.spec.evaluation.gates),
    )
    secrets = (test.credentials.secret_name,) if test and test.credentials else ()
    return _stage_job(job, owner, file, mounts, settings=settings, secrets=secrets)


def publish(job: TrainingJob, owner: Object, *, made: tuple[str, ...], passed: tuple[str, ...], settings: Settings) -> Object:
    mounts = Mounts()
    file = replace(_job_file(job, "publish", mounts, settings=settings), variants=_variants(job, made), passed=passed)
    return _stage_job(job, owner, file, mounts, settings=settings)


def _job_file(job: TrainingJob, stage: str, mounts: Mounts, *, settings: Settings) -> jobfile.JobFile:
    """What every stage gets; mounts what it names."""
    spec, recipe = job.spec, job.spec.recipe
    if recipe and recipe.config_map:
        mounts.add("recipe", source={"configMap": {"name": recipe.config_map}}, path=names.PATH_RECIPE)
    return jobfile.JobFile(
        stage=stage,
        namespace=job.metadata.namespace,
        name=job.metadata.name,
        uid=job.metadata.uid,
        model=spec.model.name,
        registry=_registry(job, mounts, settings=settings),
        recipe_path=names.PATH_RECIPE if recipe and recipe.config_map else None,
        entrypoint=recipe.entrypoint if recipe else None,
        script=tuple(spec.script),
        gang=jobfile.Gang(workers=spec.gang.workers, processes_per_worker=spec.gang.processes_per_worker),
        hyperparameters=dict(spec.hyperparameters),
        seed=spec.seed,
        checkpoint=jobfile.Checkpoint(every_steps=spec.checkpoint.every_steps, keep=spec.checkpoint.keep),
        publish=jobfile.Publish(channel=spec.publish.channel, keep_versions=spec.publish.keep_versions or 0),
        report=jobfile.ReportTo(
            url=settings.report_url, ca=settings.report_ca_pem or None, interval_seconds=settings.report_interval
        ),
        stall_timeout_seconds=times.seconds(spec.recovery.stall_timeout),
    )


def _registry(job: TrainingJob, mounts: Mounts, *, settings: Settings) -> str:
    # A script publishes nothing: it needs no registry, but may name one.
    if job.spec.script and job.spec.registry is None:
        return ""
    return registry.mount(job.spec.registry, mounts, settings=settings)


def _training_data(job: TrainingJob, mounts: Mounts) -> jobfile.Data:
    train, validation = job.spec.data.train, job.spec.data.validation
    extra = validation.uri if validation else None
    return jobfile.Data(
        train=mounts.uri(train.uri, name="train-data", path=f"{names.PATH_DATA}/train") if train else None,
        validation=mounts.uri(extra, name="validation-data", path=f"{names.PATH_DATA}/validation") if extra else None,
        validation_fraction=float(validation.fraction) if validation and validation.fraction else None,
    )


def _variants(job: TrainingJob, made: tuple[str, ...]) -> tuple[jobfile.Variant, ...]:
    wanted = job.spec.compression.variants if job.spec.compression else ()
    return (jobfile.Variant(name=DENSE), *(convert(variant, jobfile.Variant) for variant in wanted if variant.name in made))


def _gate(gate: Gate) -> jobfile.Gate:
    return jobfile.Gate(
        metric=gate.metric,
        variant=gate.variant,
        min=float(gate.min) if gate.min else None,
        max=float(gate.max) if gate.max else None,
        no_worse_than=gate.no_worse_than,
        tolerance=float(gate.tolerance or 0),
    )


def _stage_job(
    job: TrainingJob,
    owner: Object,
    file: jobfile.JobFile,
    mounts: Mounts,
    *,
    settings: Settings,
    variant: str | None = None,
    secrets: tuple[str, ...] = (),
) -> Object:
    name = stage_name(job, f"{file.stage}-{variant}" if variant else file.stage)
    labels = {names.LABEL_VARIANT: variant} if variant else {}
    meta = pod.metadata(name, owner=owner, role=file.stage, overrides=job.spec.pod, labels={**labels, **_queue(job)})
    resources = job.spec.stage_resources or _without_accelerators(job.spec.pod.resources)
    spec = _pod_spec(job, file, mounts, env={}, resources=resources, settings=settings, secrets=secrets)
    return pod.job(meta, spec, retries=STAGE_RETRIES)


def _pod_spec(
    job: TrainingJob,
    file: jobfile.JobFile,
    mounts: Mounts,
    *,
    env: dict[str, str],
    resources: Resources,
    settings: Settings,
    secrets: tuple[str, ...] = (),
) -> Object:
    train = job.spec.data.train
    sees_training_data = file.stage in ("train", "prepare", "compress") and train and train.credentials
    container = pod.Container(
        name=file.stage,
        image=job.spec.image or settings.runtime_image,
        pull_policy=job.spec.image_pull_policy or (None if job.spec.image else settings.image_pull_policy),
        command=("python", "-m", "modelmill.train.launcher" if file.stage == "train" else "modelmill.stage"),
        env={names.ENV_JOB: codec.dumps(file), **env},
        env_from_secrets=(
            *(registry.secrets(job.spec.registry, settings=settings) if file.registry else ()),
            *((train.credentials.secret_name,) if sees_training_data and train and train.credentials else ()),
            *secrets,
        ),
        resources=resources,
    )
    return pod.spec(container, mounts=mounts, overrides=job.spec.pod, pull_secrets=settings.image_pull_secrets)


def _without_accelerators(resources: Resources) -> Resources:
    def kept(quantities: dict[str, int | str]) -> dict[str, int | str]:
        return {name: quantity for name, quantity in quantities.items() if "/" not in name}

    return Resources(requests=kept(resources.requests), limits=kept(resources.limits))


def accelerated(job: TrainingJob) -> bool:
    """Whether the gang holds something scarcer than CPU and memory."""
    return any("/" in name for name in job.spec.pod.resources.limits)


def _queue(job: TrainingJob) -> dict[str, str]:
    return {QUEUE_LABEL: job.spec.scheduling.queue} if job.spec.scheduling.queue else {}


def _token(settings: Settings) -> Object:
    source = {"audience": settings.report_audience, "expirationSeconds": 3600, "path": "token"}
    return {"projected": {"sources": [{"serviceAccountToken": source}]}}
