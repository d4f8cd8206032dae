"""The train stage: keep a gang of pods alive, restart it when one is lost, and know when it is done.

What decides is the number of the attempt in the status. A loss (a pod failed or vanished, a launcher reported a dead
rank) raises it once, whatever the number of symptoms: they all belong to the old attempt. Pods that are over are then
replaced; launchers that live learn the new attempt with their next report and restart their ranks in place.
"""

import zlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from modelmill.contract import names, report
from modelmill_operator.actions import Create, Object
from modelmill_operator.api import times
from modelmill_operator.training import manifests
from modelmill_operator.training.view import DONE, RUNNING, Outcome, View
from modelmill_operator.workload import observe

STAGE = "train"
# A gang that found no room is tried again after this long; the wait doubles up to the last.
FIRST_RETRY, LAST_RETRY = timedelta(seconds=20), timedelta(minutes=5)
SPREAD_SECONDS = 10


def advance(view: View) -> Outcome:
    """What the train stage needs now; writes what it finds into the view."""
    entry = view.begin(STAGE)
    view.draft.set(attempt=view.job.status.attempt, restarts=view.job.status.restarts)
    pods = {_index(pod): pod for pod in observe.of_kind(view.children, "Pod", with_role=names.ROLE_WORKER)}
    _show_progress(view)
    if view.now < _retry_time(view):
        return RUNNING
    if len(pods) == view.job.spec.gang.workers and all(observe.phase(pod) == "Succeeded" for pod in pods.values()):
        return _finish(view, pods[0])
    if loss := _loss(view, pods):
        if loss.fatal:
            return Outcome(reason=loss.reason, message=loss.message)
        if view.job.status.restarts >= view.job.spec.recovery.max_restarts:
            return Outcome(reason="TooManyRestarts", message=_exhausted(view, loss))
        _raise_attempt(view, loss)
    if not loss and (why := _no_room(view, pods)):
        _give_back(view, pods, why)
        return RUNNING
    _replace(view, pods)
    _show_readiness(view, entry, pods)
    return RUNNING


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loss:
    """Why the current attempt cannot succeed."""

    reason: str
    message: str
    fatal: bool = False


def _index(pod: Object) -> int:
    return int(pod["metadata"]["labels"][names.LABEL_INDEX])


def _loss(view: View, pods: dict[int, Object]) -> _Loss | None:
    # Before every pod of this attempt was there, what is over or missing belongs to the attempt before.
    if view.job.status.created_attempt != view.job.status.attempt:
        return None
    for index in sorted(pods):
        if observe.phase(pods[index]) == "Failed":
            end = observe.ending(pods[index])
            return _Loss(reason=end.reason, message=end.message, fatal=end.fatal)
    if reported := _reported(view):
        index, failure = reported
        return _Loss(reason=failure.reason, message=f"worker {index}: {failure.message}", fatal=failure.fatal)
    for index in range(view.job.spec.gang.workers):
        if index not in pods or observe.deleting(pods[index]):
            name = manifests.worker_name(view.job, index)
            return _Loss(reason="PodLost", message=f"pod {name} was deleted or its node was lost")
    return None


def _reported(view: View) -> tuple[int, report.Failure] | None:
    """The failure of this attempt that tells most: a rank that only lost its peer is not the cause."""
    failures = [
        (index, one.failure or report.Failure(reason="RankFailed", message="a rank died"))
        for index, one in sorted(view.signals.reports.items())
        if one.state == report.FAILED and one.attempt == view.job.status.attempt
    ]
    return min(failures, key=lambda found: (not found[1].fatal, found[1].reason == report.PEER_LOST), default=None)


def _exhausted(view: View, loss: _Loss) -> str:
    limit = view.job.spec.recovery.max_restarts
    restarts = f"the gang was started again {limit} times (spec.recovery.maxRestarts)"
    return f"{restarts}; the last failure was {loss.reason}: {loss.message}"


def _raise_attempt(view: View, loss: _Loss) -> None:
    attempt = view.job.status.attempt + 1
    view.draft.set(attempt=attempt, restarts=view.job.status.restarts + 1)
    entry = view.stage(STAGE)
    entry["failures"] = entry.get("failures", 0) + 1
    entry["message"] = f"{loss.reason}: {loss.message}"[:2000]
    view.attempt_raised = True
    view.emit("Restarting", f"attempt {attempt}: {loss.reason}: {loss.message}"[:900], warning=True)


def _retry_time(view: View) -> datetime:
    text = view.draft.status.get("retryTime")
    return times.parse_timestamp(text) if text else datetime.min.replace(tzinfo=UTC)


def _no_room(view: View, pods: dict[int, Object]) -> str | None:
    """The scheduler's reason when some pods of the gang hold their place while others have found none for too long."""
    unscheduled = [(pod, since) for pod in pods.values() if (since := observe.unscheduled_since(pod))]
    if not unscheduled or len(unscheduled) == len(pods) or view.job.status.created_attempt != view.job.status.attempt:
        return None
    patience = timedelta(seconds=times.seconds(view.job.spec.scheduling.gang_timeout))
    if view.now - min(since for _, since in unscheduled) < patience:
        return None
    why = observe.waiting([unscheduled[0][0]], now=view.now)
    return why[1] if why else None


def _give_back(view: View, pods: dict[int, Object], why: str) -> None:
    """All or none: a part of a gang only keeps others from running, so its pods go and the whole is tried again later."""
    releases = view.draft.status.get("releases", 0) + 1
    wait = min(FIRST_RETRY * 2 ** (releases - 1), LAST_RETRY)
    # Two gangs that took half of the room each must not try again in step.
    wait += timedelta(seconds=zlib.crc32(view.job.metadata.uid.encode()) % SPREAD_SECONDS)
    view.draft.set(attempt=view.job.status.attempt + 1, releases=releases, retryTime=times.timestamp(view.now + wait))
    view.attempt_raised = True
    for pod in pods.values():
        view.delete(pod)
    next_try = view.draft.status["retryTime"]
    message = f"no room for all {view.job.spec.gang.workers} workers, so none holds any; next try at {next_try}. {why}"
    view.draft.condition("WorkersReady", False, reason="Unschedulable", message=message)
    view.emit("GangGivenBack", message[:900], warning=True)


def _replace(view: View, pods: dict[int, Object]) -> None:
    """Pods that are over go; pods that are missing come, in the attempt that is in force."""
    stale = view.attempt_raised or view.job.status.created_attempt != view.job.status.attempt
    complete = True
    for index in range(view.job.spec.gang.workers):
        pod = pods.get(index)
        if pod is None:
            made = manifests.worker(
                view.job, view.resource, index=index, attempt=view.draft.status.get("attempt", 0), settings=view.settings
            )
            view.creates.append(Create(object=made))
            # Where the status is written first, it must not count what is not there yet.
            complete = complete and not (view.attempt_raised or view.signals.refused)
        elif observe.deleting(pod):
            complete = False
        elif stale and observe.phase(pod) in ("Failed", "Succeeded"):
            view.delete(pod)
            complete = False
    if complete:
        view.draft.set(createdAttempt=view.draft.status.get("attempt", 0))


def _show_progress(view: View) -> None:
    """Progress as the gang reported it last; the attempt does not matter, the step does."""
    latest = [one.progress for _, one in sorted(view.signals.reports.items()) if one.progress]
    if not latest:
        return
    progress = latest[0]
    shown: dict[str, Any] = {"step": progress.step, "epoch": progress.epoch or 0}
    if progress.total_steps is not None:
        shown["totalSteps"] = progress.total_steps
    if progress.loss is not None:
        shown["loss"] = f"{progress.loss:.6g}"
    if progress.samples_per_second is not None:
        shown["samplesPerSecond"] = f"{progress.samples_per_second:.1f}"
    if progress.checkpoint_step is not None:
        shown["checkpointStep"] = progress.checkpoint_step
    if progress.eta_seconds is not None:
        shown["estimatedCompletionTime"] = times.timestamp(view.now + timedelta(seconds=progress.eta_seconds))
    stored = view.draft.status.get("progress", {})
    # The estimate moves with every look; alone it is no reason to write.
    if {**stored, "estimatedCompletionTime": None} != {**shown, "estimatedCompletionTime": None}:
        view.draft.set(progress=shown)


def _show_readiness(view: View, entry: Object, pods: dict[int, Object]) -> None:
    running = sum(observe.phase(pod) == "Running" and not observe.deleting(pod) for pod in pods.values())
    workers = view.job.spec.gang.workers
    over = sum(observe.phase(pod) == "Succeeded" for pod in pods.values())
    if running + over == workers and not view.attempt_raised:
        view.draft.condition("WorkersReady", True, reason="AllRunning", message=f"{workers} of {workers} workers are running")
    elif view.signals.refused:
        view.draft.condition("WorkersReady", False, reason="Refused", message=view.signals.refused)
    elif why := observe.waiting(pods.values(), now=view.now):
        view.draft.condition("WorkersReady", False, reason=why[0], message=why[1])
    else:
        view.draft.condition("WorkersReady", False, reason="Starting", message=f"waiting for all of {workers} workers to run")
    view.draft.condition("Trained", False, reason="Training", message=entry.get("message", ""))


def _finish(view: View, first: Object) -> Outcome:
    done = observe.ending(first).result
    if done and done.steps is not None:
        progress = {**view.draft.status.get("progress", {}), "step": done.steps}
        progress.pop("estimatedCompletionTime", None)
        if done.loss is not None:
            progress["loss"] = f"{done.loss:.6g}"
        view.draft.set(progress=progress)
    view.end(STAGE)
    view.draft.condition("WorkersReady", False, reason="Finished", message="training is over")
    view.draft.condition("Trained", True, reason="Finished", message=f"after {view.job.status.restarts} restarts")
    return DONE
