"""What the pods of a resource tell about themselves: why one waits, how one ended, what its stage reported."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from modelmill.contract import names, result
from modelmill_operator.actions import Object
from modelmill_operator.workload import mounts

# Reasons of a waiting container that do not go away by waiting; the others are steps on the way.
STUCK = frozenset(
    (
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "CreateContainerConfigError",
        "CreateContainerError",
    )
)
SLOW_START = timedelta(seconds=40)
TOLD_LATE = timedelta(seconds=15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a pod ended."""

    exit_code: int | None
    reason: str
    message: str
    result: result.StageResult | None
    fatal: bool


def role(child: Object) -> str:
    return str(child["metadata"].get("labels", {}).get(names.LABEL_ROLE, ""))


def of_kind(children: Iterable[Object], kind: str, *, with_role: str | None = None) -> list[Object]:
    return [child for child in children if child["kind"] == kind and (with_role is None or role(child) == with_role)]


def phase(pod: Object) -> str:
    return str(pod.get("status", {}).get("phase", "Pending"))


def deleting(child: Object) -> bool:
    return child["metadata"].get("deletionTimestamp") is not None


def ready(pod: Object) -> bool:
    return not deleting(pod) and any(
        c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", ())
    )


def terminated(pod: Object) -> dict[str, Any] | None:
    """The state of the pod's container after its end."""
    for status in pod.get("status", {}).get("containerStatuses", ()):
        for state in (status.get("state", {}), status.get("lastState", {})):
            if state.get("terminated"):
                found: dict[str, Any] = state["terminated"]
                return found
    return None


def restarts(pod: Object) -> int:
    return sum(int(status.get("restartCount", 0)) for status in pod.get("status", {}).get("containerStatuses", ()))


def ending(pod: Object) -> Ending:
    """How a pod that is over came to its end; every way a pod can end has words for the user."""
    state = terminated(pod) or {}
    text = str(state.get("message") or "")
    reported = result.read(text) if text else None
    code = state.get("exitCode")
    name, status = pod["metadata"]["name"], pod.get("status", {})
    if state.get("reason") == "OOMKilled":
        reason, message = (
            "OOMKilled",
            f"pod {name} was killed: out of memory; raise spec.pod.resources.limits.memory or lower the batch size",
        )
    elif reported and not reported.ok:
        reason, message = reported.reason or "Failed", reported.message or f"pod {name} failed"
    elif status.get("reason"):
        reason, message = str(status["reason"]), f"pod {name}: {status.get('message') or status['reason']}"
    else:
        reason, message = (
            "PodFailed",
            f"pod {name} ended with exit code {code}" + (f"; the end of its log:\n{text[-1500:]}" if text else ""),
        )
    fatal = code == names.EXIT_FATAL or bool(reported and reported.fatal)
    return Ending(exit_code=code, reason=reason, message=message, result=reported, fatal=fatal)


def waiting(pods: Iterable[Object], *, now: datetime) -> tuple[str, str] | None:
    """Why pods have not started, as (reason, message); None when nothing is wrong, or it is too early to say."""
    for pod in pods:
        if phase(pod) != "Pending" or deleting(pod):
            continue
        if found := _waiting(pod, now=now):
            return found
    return None


def unscheduled_since(pod: Object) -> datetime | None:
    """Since when the scheduler has found no node for the pod."""
    for condition in pod.get("status", {}).get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False" and not deleting(pod):
            return datetime.fromisoformat(condition.get("lastTransitionTime") or pod["metadata"]["creationTimestamp"])
    return None


def _waiting(pod: Object, *, now: datetime) -> tuple[str, str] | None:
    name, status = pod["metadata"]["name"], pod.get("status", {})
    for container in status.get("containerStatuses", ()):
        state = container.get("state", {}).get("waiting", {})
        if state.get("reason") in STUCK:
            return state["reason"], f"pod {name}: {state.get('message') or state['reason']}"
    for condition in status.get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return condition.get("reason", "Unschedulable"), f"pod {name}: {condition.get('message', 'not scheduled')}"
    started = pod["metadata"].get("creationTimestamp")
    if status.get("containerStatuses") and started and now - datetime.fromisoformat(started) > SLOW_START:
        things = mounts.describe(pod["spec"].get("volumes", []))
        return (
            "ContainersNotStarted",
            f"pod {name} has not started for {SLOW_START.seconds} s: its image may be slow to pull, or one of these "
            f"may not exist: {things or 'its volumes'}; kubectl describe pod {name} tells",
        )
    return None


def of_job(pod: Object, name: str) -> bool:
    """Whether the pod was made by the batch Job of that name."""
    return any(owner["kind"] == "Job" and owner["name"] == name for owner in pod["metadata"].get("ownerReferences", ()))


def newest_last(pods: Iterable[Object]) -> list[Object]:
    return sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")))


def job_state(job: Object) -> str | None:
    """Complete, Failed, or None while it runs."""
    for condition in job.get("status", {}).get("conditions", ()):
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            return str(condition["type"])
    return None


def job_end(job: Object, pods: Iterable[Object], *, now: datetime) -> str | None:
    """As `job_state`, but None also while the end of its pod, which has the result, may still be on its way."""
    return None if told_late(job, pods, now=now) > 0 else job_state(job)


def told_late(job: Object, pods: Iterable[Object], *, now: datetime) -> float:
    """Seconds to wait for the pod of a Job that is over. Jobs and pods are watched by two streams, and either may be behind."""
    state = job_state(job)
    wanted = {"Complete": "Succeeded", "Failed": "Failed"}.get(state or "")
    if state is None or any(
        pod["kind"] == "Pod" and of_job(pod, job["metadata"]["name"]) and phase(pod) == wanted for pod in pods
    ):
        return 0.0
    moments = [c.get("lastTransitionTime") for c in job["status"]["conditions"] if c["type"] == state]
    since = datetime.fromisoformat(moments[0]) if moments[0] else datetime.min.replace(tzinfo=UTC)
    return max(0.0, (since + TOLD_LATE - now).total_seconds())


def job_message(job: Object) -> str:
    conditions = job.get("status", {}).get("conditions", ())
    return next((c.get("message", "") for c in conditions if c["type"] == "Failed" and c["status"] == "True"), "failed")
