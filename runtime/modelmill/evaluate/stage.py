"""The evaluate stage: measures every variant on the held-out data, judges it by the gates, writes it all down.

A variant that cannot be loaded or measured fails with the reason, and the others go on. The full account is
`evaluation.json` in the job's workspace (publishing copies it); the result that the operator reads is its extract.
"""

import json
import logging
import tempfile
from dataclasses import replace
from pathlib import Path

from modelmill import storage, workspace
from modelmill.contract.jobfile import JobFile, Variant
from modelmill.contract.result import StageResult, VariantResult
from modelmill.evaluate import data, report
from modelmill.evaluate.apart import Failed, measure_apart
from modelmill.evaluate.baseline import Baselines
from modelmill.evaluate.errors import EvaluationError
from modelmill.evaluate.gates import Measurement, judge
from modelmill.evaluate.names import METRICS
from modelmill.evaluate.report import Evaluated
from modelmill.evaluate.task import Measured, Task

log = logging.getLogger(__name__)


def run(job: JobFile) -> StageResult:
    task = _task(job)
    test_digest = data.digest(task.data)
    baselines = Baselines(job, task=task, test_digest=test_digest)
    evaluated = [_evaluate(job, variant, task=task, baselines=baselines) for variant in job.variants]
    account = report.account(evaluated, test_digest=test_digest)
    storage.write_bytes(workspace.evaluation_uri(job), json.dumps(account, indent=1, sort_keys=True, allow_nan=False).encode())
    for line in report.table(evaluated, metrics=task.metrics):
        log.info(line)
    passed = [each.result.name for each in evaluated if each.result.passed]
    told = f"passed: {', '.join(passed)}" if passed else "no variant met its gates"
    refused = [f"{each.result.name}: {each.result.reason}" for each in evaluated if not each.result.passed]
    return StageResult(
        stage="evaluate", ok=True, message="; ".join([told, *refused]), variants=tuple(e.result for e in evaluated)
    )


def _task(job: JobFile) -> Task:
    """What is the same for all variants; also checks what the job asks for."""
    if job.entrypoint is None:
        raise EvaluationError("recipe: evaluation rebuilds the model and needs recipe.entrypoint; a script alone has none")
    if job.data.test is None:
        raise EvaluationError("data.test: evaluation needs held-out data; give their URI, or remove spec.evaluation")
    if not job.variants:
        raise EvaluationError("variants: there is nothing to evaluate")
    metrics = tuple(dict.fromkeys([*(job.metrics or METRICS), *(gate.metric for gate in job.gates)]))
    for name in metrics:
        if name not in METRICS:
            raise EvaluationError(f"evaluation: metric {name!r} is not known; use {', '.join(METRICS)}")
    names = [variant.name for variant in job.variants]
    for index, gate in enumerate(job.gates):
        if gate.min is None and gate.max is None and gate.no_worse_than is None:
            raise EvaluationError(f"evaluation.gates[{index}]: {gate.metric} has no bound; set min, max or noWorseThan")
        if gate.variant not in (None, *names):
            log.warning("gate on %s: variant %r was not made", gate.metric, gate.variant)
    return Task(
        weights="",
        data=job.data.test,
        metrics=metrics,
        entrypoint=job.entrypoint,
        recipe=job.recipe_path,
        hyperparameters=job.hyperparameters,
    )


def _evaluate(job: JobFile, variant: Variant, *, task: Task, baselines: Baselines) -> Evaluated:
    log.info("%s: measuring", variant.name)
    size, measured, failure = 0, None, None
    try:
        size = _weights_size(job, variant)
        measured = _measure(workspace.variant_uri(job, variant.name), replace(task, steps=variant.steps))
    except (Failed, storage.NotFound) as error:
        failure = str(error)
    measurement = (
        Measurement(metrics=measured.metrics, unmeasured=measured.unmeasured) if measured else Measurement(failure=failure)
    )
    channels = {
        gate.no_worse_than for gate in job.gates if gate.no_worse_than is not None and gate.variant in (None, variant.name)
    }
    compared = {channel: baselines.find(channel, variant=variant.name) for channel in sorted(channels)}
    verdict = judge(variant.name, measurement, gates=job.gates, baselines=compared)
    result = VariantResult(
        name=variant.name,
        passed=verdict.passed,
        bytes=size,
        metrics=measured.metrics if measured else {},
        latency_millis=round(measured.latency.median, 6) if measured else None,
        gates=verdict.results,
        reason=verdict.reason,
    )
    return Evaluated(result=result, measured=measured, baselines=compared)


def _weights_size(job: JobFile, variant: Variant) -> int:
    """Bytes of the variant's file. The dense one needs no compress stage: it is what training left."""
    uri = workspace.variant_uri(job, variant.name)
    if not variant.steps and not storage.exists(uri):
        storage.copy(workspace.dense_uri(job), uri)
    return storage.size(uri)


def _measure(uri: str, task: Task) -> Measured:
    local = storage.local_path(uri)
    if local is not None:
        return measure_apart(replace(task, weights=str(local)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        storage.download(uri, path)
        return measure_apart(replace(task, weights=str(path)))
