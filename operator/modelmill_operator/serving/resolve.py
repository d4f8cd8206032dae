"""From `spec.model` and `spec.variant` to a version, a manifest digest and a variant, asked of the registry by a Job.

The operator itself has no access to any registry: a Job with the service's own credentials asks, and its answer is kept
in `status.resolved`. It is asked again when the question changes, when a server pod saw the channel move, and, with a
growing delay, after a failure.
"""

import hashlib
import json
from datetime import timedelta

import msgspec

from modelmill.contract import result
from modelmill_operator.actions import Create, applied_hash
from modelmill_operator.api import times
from modelmill_operator.api.model_service_status import Resolved
from modelmill_operator.serving import manifests
from modelmill_operator.serving.view import View
from modelmill_operator.workload import observe

FIRST_RETRY, LAST_RETRY = timedelta(seconds=10), timedelta(minutes=5)


def advance(view: View) -> Resolved | None:
    """The answer in force, which may be one to an older question; asks where that is needed."""
    question = _question(view)
    known = view.service.status.resolved
    moved = view.signals.channel_version if view.service.spec.model.channel else None
    if known and known.hash == question and moved in (None, known.version) and not _published_since(view, known.time):
        _drop_jobs(view, keep=None)
        return known
    # Another image or other overrides make another Job: the old one may wait for ever for what is not there.
    wanted = applied_hash(manifests.resolve(view.service, view.resource, name="", settings=view.settings))
    occasion = _digest(wanted, str(moved), str(view.signals.published_at), str(view.service.status.resolve_failures))
    name = f"{view.service.metadata.name}-resolve-{occasion[:8]}"
    _drop_jobs(view, keep=name)
    if wait := _wait(view):
        view.waits.append(wait)
        return known
    return _ask(view, name, question) or known


def _wait(view: View) -> float:
    """Seconds until a question that failed may be asked again; a changed spec is asked at once."""
    status = view.service.status
    told = status.condition("Resolved")
    if status.retry_time is None or (told and told.observed_generation != view.service.metadata.generation):
        return 0.0
    failed_at = times.parse_timestamp(status.retry_time) - _delay(status.resolve_failures)
    if _published_since(view, times.timestamp(failed_at)):
        return 0.0
    return max(0.0, (times.parse_timestamp(status.retry_time) - view.now).total_seconds())


def _delay(failures: int) -> timedelta:
    return min(FIRST_RETRY * (1 << min(failures - 1, 10)), LAST_RETRY)


def _published_since(view: View, asked_at: str | None) -> bool:
    """Whether a TrainingJob of this cluster published to the channel after the registry was asked."""
    published = view.signals.published_at
    return published is not None and (asked_at is None or published > asked_at)


def _ask(view: View, name: str, question: str) -> Resolved | None:
    job = view.child("Job", name)
    if job is None:
        view.changes.append(Create(object=manifests.resolve(view.service, view.resource, name=name, settings=view.settings)))
        if view.service.status.resolved is None and not view.service.status.resolve_failures:
            view.draft.condition("Resolved", False, reason="Resolving", message="asking the registry")
        return None
    pods = observe.newest_last(pod for pod in observe.of_kind(view.children, "Pod") if observe.of_job(pod, name))
    state = observe.job_end(job, pods, now=view.now)
    if late := observe.told_late(job, pods, now=view.now):
        view.waits.append(late)
    over = [pod for pod in pods if observe.phase(pod) in ("Succeeded", "Failed")]
    if state is None:
        if why := observe.waiting(pods, now=view.now):
            view.draft.condition("Resolved", False, reason=why[0], message=why[1])
        return None
    end = observe.ending(over[-1]) if over else None
    if state == "Complete" and end and end.result and end.result.resolved:
        return _answered(view, end.result.resolved, question)
    reason, message = (end.reason, end.message) if end else ("ResolveFailed", observe.job_message(job))
    _failed(view, reason, message)
    return None


def _answered(view: View, answer: result.Resolved, question: str) -> Resolved:
    resolved = Resolved(
        version=answer.version,
        digest=answer.digest,
        variant=answer.variant,
        engine=answer.engine,
        hash=question,
        time=view.draft.now,
    )
    view.draft.set(resolved=msgspec.to_builtins(resolved), resolveFailures=None, retryTime=None)
    served_by = f", served by {resolved.engine}" if resolved.engine else ""
    told = f"version {resolved.version}, variant {resolved.variant}, {resolved.digest[:19]}{served_by}"
    view.draft.condition("Resolved", True, reason="Resolved", message=told)
    view.emit("Resolved", told)
    return resolved


def _failed(view: View, reason: str, message: str) -> None:
    failures = view.service.status.resolve_failures + 1
    wait = _delay(failures)
    view.draft.set(resolveFailures=failures, retryTime=times.timestamp(view.now + wait))
    view.waits.append(wait.total_seconds())
    view.fail(reason, message)
    view.draft.condition("Resolved", False, reason=reason, message=message)


def _drop_jobs(view: View, *, keep: str | None) -> None:
    for job in observe.of_kind(view.children, "Job", with_role="resolve"):
        if job["metadata"]["name"] != keep:
            view.delete(job)


def _question(view: View) -> str:
    spec = view.service.spec
    asked = [msgspec.to_builtins(part) for part in (spec.model, spec.variant, spec.registry) if part is not None]
    return _digest(json.dumps(asked, sort_keys=True), view.settings.registry_uri)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
