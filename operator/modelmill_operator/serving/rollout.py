"""From the version that serves to the version that was resolved: beside the old one, then instead of it.

Each version has a Deployment of its own. Traffic goes to exactly one version: the Service selects it. A new version gets
as many pods as the old one has, and traffic only when all of them are ready; the old pods go a moment later, when every
node has learned of the change. A version that does not load fails the rollout, and the old one serves on.
"""

from datetime import timedelta

from modelmill.contract import names
from modelmill_operator.actions import Apply, Object, Scale, applied_hash
from modelmill_operator.api import times
from modelmill_operator.api.model_service_status import Resolved
from modelmill_operator.serving import manifests
from modelmill_operator.serving.view import View
from modelmill_operator.workload import observe

PROGRESSING, COMPLETE, FAILED = "Progressing", "Complete", "Failed"
# How long old pods stay after the Service stopped selecting them: rules of all nodes follow within a second or two.
LINGER_SECONDS = 10
# A container that ended this often is not going to load, whatever the reason.
MANY_RESTARTS = 3


def advance(view: View, resolved: Resolved, *, replicas: int) -> int:
    """Moves the rollout on; returns the version that traffic goes to."""
    template = manifests.server_template(view.service, view.resource, resolved=resolved, settings=view.settings)
    wanted = applied_hash(template)
    rollout = view.draft.status.get("rollout", {})
    if (rollout.get("version"), rollout.get("hash")) != (resolved.version, wanted):
        rollout = _set(view, resolved.version, PROGRESSING, wanted)
        view.emit("RollingOut", f"version {resolved.version}, variant {resolved.variant}")
    active = view.service.status.version
    alone = active in (None, resolved.version)
    if rollout["state"] == FAILED and not alone:
        _deploy(view, resolved.version, template, replicas=0)
    else:
        _deploy(view, resolved.version, template, replicas=replicas)
        active = _judge(view, resolved, wanted, replicas=replicas, alone=alone)
    _others(view, resolved.version, active=active or resolved.version, replicas=replicas)
    return active or resolved.version


def _deploy(view: View, version: int, template: Object, *, replicas: int) -> None:
    view.changes.append(Apply(object=manifests.deployment(view.service, view.resource, version=version, template=template)))
    deployment = view.child("Deployment", manifests.deployment_name(view.service, version))
    if deployment is not None:
        _scale(view, deployment, replicas)


def _judge(view: View, resolved: Resolved, wanted: str, *, replicas: int, alone: bool) -> int | None:
    """Whether the new pods may take the traffic, or will never; returns the version that has it."""
    version, active = resolved.version, view.service.status.version
    deployment = view.child("Deployment", manifests.deployment_name(view.service, version))
    if view.draft.status["rollout"]["state"] == COMPLETE:
        return active
    if deployment is not None and _available(deployment, replicas=replicas, template=wanted):
        _set(view, version, COMPLETE, wanted)
        view.draft.set(version=version, digest=resolved.digest, variant=resolved.variant)
        view.draft.condition("RolledOut", True, reason="Complete", message=f"version {version} serves")
        view.emit("RolledOut", f"version {version} serves with {replicas} replicas")
        return version
    if failure := _failure(view, version, deployment):
        reason, message = failure
        view.fail(reason, message, version=version)
        view.draft.condition("RolledOut", False, reason=reason, message=message)
        if not alone:
            _set(view, version, FAILED, wanted, reason=f"{reason}: {message}")
        return active
    pods = _pods(view, version)
    why = observe.waiting(pods, now=view.now)
    told = why or ("Progressing", f"waiting for {replicas} ready pods of version {version}")
    view.draft.condition("RolledOut", False, reason=told[0], message=told[1])
    if any(observe.phase(pod) == "Pending" for pod in pods):
        view.waits.append(observe.SLOW_START.total_seconds() + 1)
    return active


def _available(deployment: Object, *, replicas: int, template: str) -> bool:
    """Whether all pods of the wanted template are ready, as the Deployment controller saw them."""
    meta, status = deployment["metadata"], deployment.get("status", {})
    current = status.get("observedGeneration", 0) >= meta.get("generation", 1)
    stamped = meta.get("annotations", {}).get(manifests.TEMPLATE_ANNOTATION) == template
    ready = min(status.get("availableReplicas", 0), status.get("updatedReplicas", 0))
    return bool(current and stamped and ready >= replicas and status.get("replicas", 0) == ready)


def _failure(view: View, version: int, deployment: Object | None) -> tuple[str, str] | None:
    for pod in _pods(view, version):
        ended = observe.terminated(pod)
        if ended is None or ended.get("exitCode") == 0:
            continue
        end = observe.ending(pod)
        if end.fatal or observe.restarts(pod) >= MANY_RESTARTS:
            return end.reason, end.message
    for condition in (deployment or {}).get("status", {}).get("conditions", ()):
        if condition["type"] == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
            why = observe.waiting(_pods(view, version), now=view.now)
            detail = f": {why[1]}" if why else ""
            return "ProgressDeadlineExceeded", f"version {version} was not ready within spec.rollout.progressDeadline{detail}"
    return None


def _others(view: View, target: int, *, active: int, replicas: int) -> None:
    """Deployments of versions other than the target: the active one keeps its pods, replaced ones lose them, old ones go."""
    found = observe.of_kind(view.children, "Deployment")
    replaced = []
    for deployment in found:
        version = int(deployment["metadata"]["labels"][names.LABEL_VERSION])
        if version == target:
            continue
        if version == active:
            _scale(view, deployment, replicas)
        else:
            replaced.append((version, deployment))
    if active != target or not replaced:
        linger = 0.0
    else:
        since = times.parse_timestamp(view.draft.status["rollout"].get("time", view.draft.now))
        linger = (since + timedelta(seconds=LINGER_SECONDS) - view.now).total_seconds()
    if linger > 0:
        view.waits.append(linger)
        return
    newest_first = sorted(replaced, key=lambda pair: -pair[0])
    for kept, (_, deployment) in enumerate(newest_first):
        if kept < view.service.spec.revision_history_limit:
            _scale(view, deployment, 0)
        else:
            view.delete(deployment)


def _scale(view: View, deployment: Object, replicas: int) -> None:
    meta = deployment["metadata"]
    if deployment.get("spec", {}).get("replicas") != replicas and not observe.deleting(deployment):
        view.changes.append(Scale(namespace=meta["namespace"], name=meta["name"], uid=meta["uid"], replicas=replicas))


def _set(view: View, version: int, state: str, template: str, *, reason: str | None = None) -> Object:
    rollout: Object = {"version": version, "state": state, "hash": template, "time": view.draft.now}
    if reason:
        rollout["reason"] = reason[:4000]
    view.draft.set(rollout=rollout)
    return rollout


def _pods(view: View, version: int) -> list[Object]:
    servers = observe.of_kind(view.children, "Pod", with_role=names.ROLE_SERVER)
    return [pod for pod in servers if pod["metadata"]["labels"].get(names.LABEL_VERSION) == str(version)]
