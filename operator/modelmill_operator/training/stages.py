"""The stages that are plain Jobs: create one, watch it, and take its result from the termination message of its pod."""

from collections.abc import Callable
from functools import partial

from modelmill.contract.result import StageResult, VariantResult
from modelmill_operator.actions import Create, Object
from modelmill_operator.api.compression import DENSE
from modelmill_operator.training import manifests
from modelmill_operator.training.view import DONE, RUNNING, Outcome, View
from modelmill_operator.workload import observe


def prepare(view: View) -> Outcome:
    outcome, _ = _run(view, "prepare", lambda: manifests.prepare(view.job, view.resource, settings=view.settings))
    return outcome


def compress(view: View) -> Outcome:
    """All variants at once; one that cannot be made is reported and left out, the others go on."""
    variants = view.job.spec.compression.variants if view.job.spec.compression else ()
    outcomes = []
    for variant in variants:
        stage = f"compress-{variant.name}"
        if view.stage(stage).get("completionTime"):
            continue
        outcome, result = _run(
            view,
            stage,
            partial(manifests.compress, view.job, view.resource, variant=variant, settings=view.settings),
        )
        if outcome.failed:
            view.draft.entry("variants", variant.name).update(passed=False, reason=f"{outcome.reason}: {outcome.message}"[:2000])
            view.end(stage)
            view.emit("CompressionFailed", f"variant {variant.name}: {outcome.message}"[:900], warning=True)
            outcome = DONE
        elif outcome.done and result:
            for made in result.variants:
                view.draft.entry("variants", made.name).update(bytes=made.bytes)
            for told in result.details.get("warnings", ()):
                view.emit("NotFaster", f"variant {variant.name}: {told}"[:900], warning=True)
        outcomes.append(outcome)
    if all(outcome.done for outcome in outcomes):
        view.draft.condition(
            "Compressed", True, reason="Finished", message=f"{len(made_variants(view)) - 1} of {len(variants)} variants"
        )
        return DONE
    view.draft.condition("Compressed", False, reason="Compressing", message=_messages(view, "compress"))
    return RUNNING


def evaluate(view: View) -> Outcome:
    made = made_variants(view)
    outcome, result = _run(
        view, "evaluate", lambda: manifests.evaluate(view.job, view.resource, made=made, settings=view.settings)
    )
    if not outcome.done or result is None:
        view.draft.condition("Evaluated", False, reason="Evaluating", message=_messages(view, "evaluate"))
        return outcome
    for variant in result.variants:
        _record(view, variant)
    passed = [variant.name for variant in result.variants if variant.passed]
    if not passed:
        message = "no variant met its gates: " + "; ".join(f"{v.name}: {v.reason}" for v in result.variants)
        view.draft.condition("Evaluated", True, reason="GateRefused", message=message)
        return Outcome(reason="GateRefused", message=message)
    refused = [f"{v.name}: {v.reason}" for v in result.variants if not v.passed]
    view.draft.condition(
        "Evaluated", True, reason="Passed", message=f"passed: {', '.join(passed)}" + "".join(f"; {r}" for r in refused)
    )
    return DONE


def publish(view: View) -> Outcome:
    made = made_variants(view)
    passed = passed_variants(view)
    outcome, result = _run(
        view, "publish", lambda: manifests.publish(view.job, view.resource, made=made, passed=passed, settings=view.settings)
    )
    if not outcome.done or result is None or result.published is None:
        view.draft.condition("Published", False, reason="Publishing", message=_messages(view, "publish"))
        return outcome
    published, spec = result.published, view.job.spec
    view.draft.set(
        published={
            "version": published.version,
            "digest": published.digest,
            "channel": published.channel or spec.publish.channel,
            "time": view.draft.now,
        }
    )
    told = f"{spec.model.name} version {published.version} in channel {spec.publish.channel}"
    view.draft.condition("Published", True, reason="Published", message=told)
    view.emit("Published", told)
    return DONE


def made_variants(view: View) -> tuple[str, ...]:
    """dense and every variant whose compression succeeded."""
    wanted = view.job.spec.compression.variants if view.job.spec.compression else ()
    failed = {entry["name"] for entry in view.draft.status.get("variants", ()) if "bytes" not in entry}
    return (DENSE, *(variant.name for variant in wanted if variant.name not in failed))


def passed_variants(view: View) -> tuple[str, ...]:
    if view.job.spec.evaluation is None:
        return made_variants(view)
    return tuple(entry["name"] for entry in view.draft.status.get("variants", ()) if entry.get("passed"))


def _run(view: View, stage: str, make: Callable[[], Object]) -> tuple[Outcome, StageResult | None]:
    """Creates the stage's Job when it is not there; how it stands, and its result when it is done."""
    entry = view.begin(stage)
    name = manifests.stage_name(view.job, stage)
    job = next((child for child in observe.of_kind(view.children, "Job") if child["metadata"]["name"] == name), None)
    if job is None:
        view.creates.append(Create(object=make()))
        return RUNNING, None
    pods = [pod for pod in observe.of_kind(view.children, "Pod") if observe.of_job(pod, name)]
    state = observe.job_end(job, pods, now=view.now)
    entry["failures"] = int(job.get("status", {}).get("failed", 0))
    if state == "Complete":
        return _completed(view, stage, pods)
    if state == "Failed":
        ends = [observe.ending(pod) for pod in observe.newest_last(pods) if observe.phase(pod) == "Failed"]
        if not ends:
            return Outcome(reason="JobFailed", message=f"Job {name}: {observe.job_message(job)}"), None
        return Outcome(reason=ends[-1].reason, message=f"{stage}: {ends[-1].message}"), None
    why = observe.waiting(pods, now=view.now)
    if why:
        entry["message"] = f"{why[0]}: {why[1]}"
    else:
        entry.pop("message", None)
    return RUNNING, None


def _completed(view: View, stage: str, pods: list[Object]) -> tuple[Outcome, StageResult | None]:
    ends = [observe.ending(pod) for pod in observe.newest_last(pods) if observe.phase(pod) == "Succeeded"]
    result = ends[-1].result if ends else None
    if result is None:
        reason = (
            f"the Job of stage {stage} completed without a result; its pod was deleted too early, or its image is not Modelmill's"
        )
        return Outcome(reason="ResultMissing", message=reason), None
    if not result.ok:
        return Outcome(reason=result.reason or "Failed", message=result.message or f"{stage} failed"), result
    view.end(stage)
    return DONE, result


def _record(view: View, variant: VariantResult) -> None:
    entry = view.draft.entry("variants", variant.name)
    entry.update(passed=variant.passed, metrics={name: f"{value:.6g}" for name, value in sorted(variant.metrics.items())})
    if variant.bytes:
        entry["bytes"] = variant.bytes
    if variant.latency_millis is not None:
        entry["latencyMillis"] = f"{variant.latency_millis:.4g}"
    if variant.reason:
        entry["reason"] = variant.reason


def _messages(view: View, prefix: str) -> str:
    entries = (entry for entry in view.draft.status.get("stages", ()) if entry["name"].startswith(prefix))
    return "; ".join(entry["message"] for entry in entries if entry.get("message"))
