"""What the operator knows of the cluster: every watched object, trimmed, by name and by the resource it belongs to.

Facts arrive out of order, from watches, lists, and the answers to our own writes. Two rules keep the store from going back in
time: of two versions of an object the one with the higher resourceVersion wins (Kubernetes promises since 1.35 that they
compare as numbers), and a uid that was deleted never comes back.
"""

import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from modelmill.contract import names
from modelmill_operator.actions import Object
from modelmill_operator.engine.kinds import KINDS, Id, Key, id_of, owner_of, uid_of

TOMBSTONES = 20_000
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
# What planners read of the bulky children; the rest of a pod's spec alone would be most of the operator's memory.
_KEPT_SPEC = {
    "Pod": ("nodeName", "volumes"),
    "Job": ("suspend", "parallelism", "completions"),
    "Deployment": ("replicas",),
    "Service": ("type", "clusterIP", "ports"),
    "Ingress": ("rules", "tls"),
}


class Store:
    """All watched objects. Every method is O(1) in the number of objects, but `resources` and `objects`."""

    def __init__(self) -> None:
        self._objects: dict[Id, Object] = {}
        self._children: defaultdict[Key, dict[Id, Object]] = defaultdict(dict)
        self._deleted: OrderedDict[str, None] = OrderedDict()

    def resource(self, key: Key) -> Object | None:
        """One of our own resources."""
        return self._objects.get(Id(*key))

    def get(self, which: Id) -> Object | None:
        return self._objects.get(which)

    def children(self, key: Key, *, uid: str) -> list[Object]:
        """The children of this very incarnation: those labelled with its uid, in order of kind and name."""
        found = self._children.get(key, {}).items()
        return [child for _, child in sorted(found, key=lambda pair: pair[0]) if _label(child, names.LABEL_UID) == uid]

    def has_children(self, key: Key) -> bool:
        """Whether anything is labelled with this resource's name."""
        return key in self._children

    def resources(self, kind: str | None = None) -> list[Key]:
        """Our own resources, of one kind or of both."""
        return [Key(*which) for which in self._objects if KINDS[which.kind].own and kind in (None, which.kind)]

    def objects(self, kind: str, *, namespace: str | None = None) -> list[Object]:
        return [item for which, item in self._objects.items() if which.kind == kind and namespace in (None, which.namespace)]

    def is_news(self, item: Object) -> bool:
        """False when the store knows as much or more already. The metadata tells."""
        known = self._objects.get(id_of(item))
        return uid_of(item) not in self._deleted and (known is None or version_of(item) > version_of(known))

    def upsert(self, item: Object) -> bool:
        """Takes in an object as the API told it. False when the store knew as much or more already."""
        if not self.is_news(item):
            return False
        which = id_of(item)
        known = self._objects.get(which)
        if known is not None and uid_of(known) != uid_of(item):
            self._forget(which, known)
        trimmed = trim(item)
        self._objects[which] = trimmed
        owner = owner_of(item)
        if owner is not None and not KINDS[which.kind].own:
            self._children[owner][which] = trimmed
        return True

    def remove(self, item: Object) -> bool:
        """Takes in that this incarnation is gone. False when the store knew, or knows a later incarnation."""
        fresh = uid_of(item) not in self._deleted
        self._bury(uid_of(item))
        which = id_of(item)
        known = self._objects.get(which)
        if known is None or uid_of(known) != uid_of(item):
            return fresh and known is None
        self._forget(which, known)
        return True

    def ghosts(self, kind: str, *, listed: Iterable[Object], version: int, namespace: str | None) -> list[Object]:
        """Stored objects that a complete list, true for `version`, does not have."""
        alive = {uid_of(item) for item in listed}
        return [
            item for item in self.objects(kind, namespace=namespace) if uid_of(item) not in alive and version_of(item) <= version
        ]

    def __len__(self) -> int:
        return len(self._objects)

    def _forget(self, which: Id, known: Object) -> None:
        del self._objects[which]
        owner = owner_of(known)
        if owner is not None and not KINDS[which.kind].own:
            siblings = self._children[owner]
            siblings.pop(which, None)
            if not siblings:
                del self._children[owner]
        self._bury(uid_of(known))

    def _bury(self, uid: str) -> None:
        self._deleted[uid] = None
        if len(self._deleted) > TOMBSTONES:
            self._deleted.popitem(last=False)


class Freshness:
    """When the watches last brought anything: how a silent watch shows."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at: float | None = None

    def mark(self) -> None:
        self._at = self._clock()

    def age(self) -> float | None:
        return None if self._at is None else self._clock() - self._at


def version_of(item: Object) -> int:
    return int(item["metadata"].get("resourceVersion") or 0)


def trim(item: Object) -> Object:
    """The object without what no planner reads."""
    kind = item["kind"]
    metadata = {name: value for name, value in item["metadata"].items() if name != "managedFields"}
    if _LAST_APPLIED in metadata.get("annotations", {}):
        metadata["annotations"] = {k: v for k, v in metadata["annotations"].items() if k != _LAST_APPLIED}
    trimmed: dict[str, Any] = {"apiVersion": item["apiVersion"], "kind": kind, "metadata": metadata}
    if KINDS[kind].own:
        trimmed["spec"] = item.get("spec") or {}
    elif kind in _KEPT_SPEC:
        spec = item.get("spec") or {}
        trimmed["spec"] = {name: spec[name] for name in _KEPT_SPEC[kind] if name in spec}
    if "status" in item:
        trimmed["status"] = item["status"]
    return trimmed


def _label(item: Object, name: str) -> str | None:
    value: str | None = (item["metadata"].get("labels") or {}).get(name)
    return value
