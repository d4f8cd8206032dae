"""What a ModelService needs next: resolve what to serve, roll it out, lead traffic to it, and give it enough pods."""

from collections.abc import Sequence
from datetime import datetime

from modelmill_operator import api
from modelmill_operator.actions import Action, Apply, Emit, Object, Plan, Signals
from modelmill_operator.api.model_service import ModelService
from modelmill_operator.draft import Draft
from modelmill_operator.serving import manifests, network, resolve, rollout
from modelmill_operator.serving.autoscaler import Limits
from modelmill_operator.serving.view import View
from modelmill_operator.settings import Settings
from modelmill_operator.workload.registry import NoRegistryError


def plan(resource: Object, children: Sequence[Object], *, now: datetime, settings: Settings, signals: Signals) -> Plan:
    try:
        service = api.parse_model_service(resource)
    except api.InvalidResourceError as error:
        return Plan(actions=(Emit(type="Warning", reason="InvalidResource", message=str(error)),))
    if service.metadata.deletion_timestamp:
        return Plan()
    draft = Draft(resource, now=now)
    view = View(service=service, resource=resource, children=children, draft=draft, now=now, settings=settings, signals=signals)
    try:
        _advance(view)
    except NoRegistryError as error:
        draft.condition("Resolved", False, reason="NoRegistry", message=str(error))
    _show(view)
    status: list[Action] = [draft.action()]
    # What was refused will be refused again: the user must be told first.
    changes = [*status, *view.changes] if signals.refused else [*view.changes, *status]
    actions = (*changes, *view.deletes, *view.events)
    return Plan(actions=actions, requeue_after_seconds=max(0.5, min(view.waits)) if view.waits else None)


def _advance(view: View) -> None:
    view.changes += [
        Apply(object=network.disruption_budget(view.service, view.resource)),
        Apply(object=network.policy(view.service, view.resource)),
    ]
    if resolved := resolve.advance(view):
        version = rollout.advance(view, resolved, replicas=_replicas(view))
        view.changes.append(Apply(object=network.endpoint(view.service, view.resource, version=version)))
    _ingress(view)


def _ingress(view: View) -> None:
    wanted = network.ingress(view.service, view.resource)
    if wanted is not None:
        view.changes.append(Apply(object=wanted))
    elif stale := view.child("Ingress", view.service.metadata.name):
        view.delete(stale)


def limits(service: ModelService) -> Limits:
    """What the autoscaler needs to know of a service."""
    spec = service.spec
    target = min(spec.scale_target, spec.container_concurrency or spec.scale_target)
    return Limits(
        min_replicas=spec.min_replicas,
        max_replicas=spec.max_replicas,
        target=float(target),
        stable_window_seconds=api.times.seconds(spec.stable_window),
        scale_down_delay_seconds=api.times.seconds(spec.scale_down_delay),
    )


def _replicas(view: View) -> int:
    """External: as the scale subresource says. BuiltIn: the autoscaler's newest decision, kept in the status."""
    spec, decision = view.service.spec, view.signals.scaling
    if spec.autoscaling == "External":
        view.draft.set(autoscaling=None)
        return spec.replicas
    stored = view.service.status.autoscaling
    wanted = decision.replicas if decision else stored.desired_replicas if stored else spec.min_replicas
    wanted = min(max(wanted, spec.min_replicas), spec.max_replicas)
    if decision and (stored is None or stored.desired_replicas != wanted):
        before = stored.desired_replicas if stored else spec.min_replicas
        view.draft.set(
            autoscaling={
                "desiredReplicas": wanted,
                "stableConcurrency": f"{decision.stable_concurrency:g}",
                "panicConcurrency": f"{decision.panic_concurrency:g}",
                "panicking": decision.panicking,
                "reason": decision.reason,
                "time": view.draft.now,
            }
        )
        if before != wanted:
            view.emit(
                "Scaled", f"from {before} to {wanted} replicas: {decision.reason}, {decision.stable_concurrency:g} in flight"
            )
    return wanted


def _show(view: View) -> None:
    service, draft = view.service, view.draft
    labels = ",".join(f"{key}={value}" for key, value in manifests.selector(service).items())
    version = draft.status.get("version")
    deployment = view.child("Deployment", manifests.deployment_name(service, version)) if version else None
    counts = (deployment or {}).get("status", {})
    ready = int(counts.get("availableReplicas", 0))
    draft.set(url=network.url(service), selector=labels, replicas=int(counts.get("replicas", 0)), readyReplicas=ready)
    if version and ready:
        draft.condition("Ready", True, reason="Serving", message=f"version {version} serves with {ready} ready replicas")
    elif version:
        draft.condition("Ready", False, reason="NoReadyReplicas", message=f"version {version} has no ready replica")
    else:
        why = next(
            (c for c in draft.status.get("conditions", ()) if c["type"] in ("RolledOut", "Resolved") and c["status"] == "False"),
            None,
        )
        draft.condition("Ready", False, reason=why["reason"] if why else "Starting", message=why["message"] if why else "")
