"""What a TrainingJob needs next: a function of the resource, its children, the time and what launchers reported.

    prepare -> train -> compress -> evaluate -> publish        (empty stages are left out)

`prepare` runs only where a gang would hold accelerators while it finds out that a path is wrong. A script is trained and
nothing more. What is done is in `status.stages`, so every call starts from what was written down, not from what was seen.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from modelmill_operator import api
from modelmill_operator.actions import Action, Delete, Emit, Object, Plan, Signals
from modelmill_operator.api import times
from modelmill_operator.draft import Draft
from modelmill_operator.settings import Settings
from modelmill_operator.training import manifests, stages, train
from modelmill_operator.training.view import Outcome, View
from modelmill_operator.workload import observe
from modelmill_operator.workload.registry import NoRegistryError

SLOW_START_SECONDS = observe.SLOW_START.total_seconds() + 1


def plan(resource: Object, children: Sequence[Object], *, now: datetime, settings: Settings, signals: Signals) -> Plan:
    try:
        job = api.parse_training_job(resource)
    except api.InvalidResourceError as error:
        return Plan(actions=(Emit(type="Warning", reason="InvalidResource", message=str(error)),))
    if job.metadata.deletion_timestamp or job.spec.managed_by:
        return Plan()
    draft = Draft(resource, now=now)
    view = View(job=job, resource=resource, children=children, draft=draft, now=now, settings=settings, signals=signals)
    if draft.holds("Succeeded") or draft.holds("Failed"):
        return _finished(view)
    if job.spec.suspend:
        return _suspended(view)
    if draft.holds("Suspended"):
        draft.condition("Suspended", False, reason="Resumed")
        draft.set(startTime=None)
        view.emit("Resumed", "the job goes on from its newest checkpoint")
    return _advance(view)


def _advance(view: View) -> Plan:
    try:
        outcome = _deadline(view) or _stages(view)
    except NoRegistryError as error:
        outcome = Outcome(reason="NoRegistry", message=str(error))
    if outcome.failed:
        _conclude(view, "Failed", outcome.reason or "Failed", outcome.message)
    elif outcome.done:
        _conclude(view, "Succeeded", "Finished", "")
    return _ordered(view, requeue_after_seconds=_next_look(view))


def _stages(view: View) -> Outcome:
    """Runs the stages in order up to the first that is not done."""
    spec = view.job.spec
    wanted: list[tuple[str, Callable[[View], Outcome]]] = []
    if spec.recipe and manifests.accelerated(view.job):
        wanted.append(("prepare", stages.prepare))
    wanted.append((train.STAGE, train.advance))
    if spec.recipe:
        if spec.compression and spec.compression.variants:
            wanted.append(("compress", stages.compress))
        if spec.evaluation:
            wanted.append(("evaluate", stages.evaluate))
        wanted.append(("publish", stages.publish))
    outcome = Outcome(done=True)
    for name, advance in wanted:
        if any(entry["name"] == name and entry.get("completionTime") for entry in view.draft.status.get("stages", ())):
            continue
        outcome = advance(view)
        if not outcome.done:
            return outcome
    return outcome


def _deadline(view: View) -> Outcome | None:
    limit, started = view.job.spec.active_deadline_seconds, view.draft.status.get("startTime")
    if limit is None or started is None or view.now < times.parse_timestamp(started) + timedelta(seconds=limit):
        return None
    return Outcome(reason="DeadlineExceeded", message=f"not finished {limit} s after its start (spec.activeDeadlineSeconds)")


def _conclude(view: View, kind: str, reason: str, message: str) -> None:
    view.draft.condition(kind, True, reason=reason, message=message)
    if kind == "Failed":
        # So that one condition tells how a job ended: kubectl's columns can show no other.
        view.draft.condition("Succeeded", False, reason=reason, message=message)
    if view.draft.holds("WorkersReady"):
        view.draft.condition("WorkersReady", False, reason="Finished", message="the job is over")
    view.draft.set(stage=kind, completionTime=view.draft.now)
    view.emit(kind, f"{reason}: {message}"[:900] if message else "the job is done", warning=kind == "Failed")
    view.creates.clear()
    _stop(view)


def _stop(view: View) -> None:
    """Deletes what still runs; what is over stays, for its logs."""
    for child in view.children:
        active = (child["kind"] == "Pod" and observe.phase(child) in ("Pending", "Running") and _gang(child)) or (
            child["kind"] == "Job" and observe.job_state(child) is None
        )
        if active:
            view.delete(child)


def _gang(pod: Object) -> bool:
    return observe.role(pod) == "worker"


def _finished(view: View) -> Plan:
    _stop(view)
    ttl, ended = view.job.spec.ttl_seconds_after_finished, view.draft.status.get("completionTime")
    wait = None
    if ttl is not None and ended is not None:
        wait = (times.parse_timestamp(ended) + timedelta(seconds=ttl) - view.now).total_seconds()
        if wait <= 0:
            meta = view.resource["metadata"]
            gone = Delete(kind="TrainingJob", namespace=meta["namespace"], name=meta["name"], uid=meta["uid"])
            return Plan(actions=(gone,))
    return Plan(actions=tuple(view.deletes), requeue_after_seconds=wait)


def _suspended(view: View) -> Plan:
    if not view.draft.holds("Suspended"):
        # Whoever is left of this attempt must not be counted as lost when the job goes on.
        view.draft.set(attempt=view.job.status.attempt + 1, stage="Suspended")
        view.draft.condition("Suspended", True, reason="Suspended", message="spec.suspend is true: set it to false to go on")
        view.draft.condition("WorkersReady", False, reason="Suspended")
        view.emit("Suspended", "pods are deleted, checkpoints are kept")
        view.attempt_raised = True
    _stop(view)
    return _ordered(view, requeue_after_seconds=None)


def _ordered(view: View, *, requeue_after_seconds: float | None) -> Plan:
    """Children before the status that counts them; but a raised attempt is written down before anything acts on it."""
    status: list[Action] = [view.draft.action()]
    # What was refused will be refused again: the user must be told first.
    first = view.attempt_raised or view.signals.refused
    changes = [*status, *view.deletes, *view.creates] if first else [*view.creates, *status, *view.deletes]
    return Plan(actions=(*changes, *view.events), requeue_after_seconds=requeue_after_seconds)


def _next_look(view: View) -> float | None:
    """When time alone could change the plan: a deadline, or pods that are slow to start."""
    waits = []
    if retry := view.draft.status.get("retryTime"):
        waits.append((times.parse_timestamp(retry) - view.now).total_seconds())
        waits = [wait for wait in waits if wait > 0]
    limit, started = view.job.spec.active_deadline_seconds, view.draft.status.get("startTime")
    if limit is not None and started is not None:
        waits.append((times.parse_timestamp(started) + timedelta(seconds=limit) - view.now).total_seconds() + 0.5)
    for job in observe.of_kind(view.children, "Job"):
        if late := observe.told_late(job, view.children, now=view.now):
            waits.append(late)
    for pod in observe.of_kind(view.children, "Pod"):
        if since := observe.unscheduled_since(pod):
            patience = times.seconds(view.job.spec.scheduling.gang_timeout)
            left = patience - (view.now - since).total_seconds()
            waits.extend([left + 0.5] if left > 0 else [])
        elif pod.get("status", {}).get("containerStatuses") and observe.phase(pod) == "Pending":
            age = (view.now - times.parse_timestamp(pod["metadata"]["creationTimestamp"])).total_seconds()
            waits.append(max(1.0, SLOW_START_SECONDS - age))
    return max(0.5, min(waits)) if waits else None
