"""Carries out a plan: its actions in order, stopping at the first that fails, skipping what is so already.

Every write may be the last that this process does, so each is safe on its own: names are deterministic, deletes name the
incarnation, a status is written only onto the very version that it was planned from.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from modelmill.contract import names
from modelmill_operator.actions import (
    ANNOTATION_APPLIED_HASH,
    Action,
    Apply,
    Create,
    Delete,
    Emit,
    Object,
    Scale,
    SetStatus,
    stamped,
)
from modelmill_operator.engine.client import Conflict
from modelmill_operator.engine.events import EventRecorder
from modelmill_operator.engine.kinds import Id, id_of, uid_of
from modelmill_operator.engine.store import Store, version_of
from modelmill_operator.engine.writer import Writer, changed

logger = logging.getLogger(__name__)


class NameTaken(Exception):
    """An object that is not ours, or not any more, has the name of a child that we want: it must go first."""


class Executor:
    """Executes actions for one resource at a time."""

    def __init__(self, writer: Writer, *, store: Store, events: EventRecorder) -> None:
        self._writer, self._store, self._events = writer, store, events

    async def execute(self, resource: Object, actions: Sequence[Action], *, give_way: Callable[[], bool]) -> bool:
        """True when anything changed by it, so that it is worth to plan again. Ends after a change when it is to give way."""
        effective = False
        for action in actions:
            if effective and give_way():
                break
            match action:
                case Create():
                    effective |= await self._create(action.object)
                case Apply():
                    effective |= await self._apply(action.object)
                case Scale():
                    await self._scale(action)
                    effective = True
                case Delete():
                    effective |= await self._delete(action)
                case SetStatus():
                    before, resource = resource, await self._set_status(resource, action.status)
                    effective |= changed(before, resource)
                case Emit():
                    self._events.emit(resource, action)
        return effective

    async def _create(self, wanted: Object) -> bool:
        try:
            await self._writer.create(wanted)
        except Conflict:
            await self._accept_existing(wanted)
        return True

    async def _accept_existing(self, wanted: Object) -> None:
        metadata = wanted["metadata"]
        existing = await self._writer.refresh(wanted["kind"], namespace=metadata["namespace"], name=metadata["name"])
        ours = metadata["labels"][names.LABEL_UID]
        if existing is None:
            raise NameTaken(f"{_told(wanted)} existed a moment ago")
        if (existing["metadata"].get("labels") or {}).get(names.LABEL_UID) != ours:
            raise NameTaken(f"{_told(wanted)} exists and does not belong to this resource: delete it, or wait until it is gone")
        if existing["metadata"].get("deletionTimestamp"):
            raise NameTaken(f"{_told(wanted)} is still being deleted")

    async def _apply(self, wanted: Object) -> bool:
        sent = stamped(wanted)
        stored = self._store.get(id_of(wanted))
        if stored is not None and _hash(stored) == _hash(sent) and not stored["metadata"].get("deletionTimestamp"):
            return False
        return changed(stored, await self._writer.apply(sent))

    async def _scale(self, action: Scale) -> None:
        patch = {"metadata": {"uid": action.uid}, "spec": {"replicas": action.replicas}}
        await self._writer.merge("Deployment", namespace=action.namespace, name=action.name, patch=patch)

    async def _delete(self, action: Delete) -> bool:
        stored = self._store.get(Id(action.kind, action.namespace, action.name))
        if stored is not None and (uid_of(stored) != action.uid or stored["metadata"].get("deletionTimestamp")):
            return False
        await self._writer.delete(action)
        return True

    async def _set_status(self, resource: Object, wanted: Object) -> Object:
        """The resource as it is afterwards."""
        kind, namespace, name = id_of(resource)
        patch = merge_patch(resource.get("status") or {}, without_none(wanted))
        if patch is None:
            return resource
        precondition = {"uid": uid_of(resource), "resourceVersion": str(version_of(resource))}
        body = {"metadata": precondition, "status": patch}
        after = await self._writer.merge(kind, namespace=namespace, name=name, patch=body, subresource="status")
        leftover = merge_patch(after.get("status") or {}, without_none(wanted))
        if leftover is not None:
            # Written at each look at the resource, and never so: a planner's mistake, or a CRD older than the operator.
            logger.warning("%s %s/%s: the API server keeps no such status: %s", kind, namespace, name, sorted(leftover))
        return after


def merge_patch(before: Object, wanted: Object) -> Object | None:
    """The JSON merge patch that turns one object into the other; None when they are equal. Lists are replaced as wholes."""
    patch: Object = {name: None for name in before if name not in wanted}
    for name, value in wanted.items():
        if name not in before:
            patch[name] = value
        elif isinstance(value, dict) and isinstance(before[name], dict):
            inner = merge_patch(before[name], value)
            if inner is not None:
                patch[name] = inner
        elif value != before[name]:
            patch[name] = value
    return patch or None


def without_none(value: Any) -> Any:
    """The value without object members that are None: the API server drops them too."""
    if isinstance(value, dict):
        return {name: without_none(member) for name, member in value.items() if member is not None}
    return [without_none(member) for member in value] if isinstance(value, list) else value


def _hash(item: Object) -> str | None:
    found: str | None = (item["metadata"].get("annotations") or {}).get(ANNOTATION_APPLIED_HASH)
    return found


def _told(item: Object) -> str:
    return f"{item['kind']} {item['metadata']['namespace']}/{item['metadata']['name']}"
