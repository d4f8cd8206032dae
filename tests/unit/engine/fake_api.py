"""An API server in memory with the client's methods: uids, one resourceVersion for all, preconditions, apply, deletion at once.

`before` is called before each request with its verb and kind; what it raises is what the caller gets.
"""

import copy
import itertools
from collections.abc import Callable
from typing import Any

from modelmill_operator.actions import API_VERSION, Object
from modelmill_operator.engine.client import Client, Conflict, NotFound
from modelmill_operator.engine.execute import merge_patch

Place = tuple[str, str, str]


class FakeApi(Client):
    """Objects by kind, namespace and name."""

    def __init__(self) -> None:
        self.objects: dict[Place, Object] = {}
        self.requests: list[tuple[str, str]] = []
        self.timeouts: list[float | None] = []
        self.before: Callable[[str, str], None] = lambda verb, kind: None
        self._versions = itertools.count(1)
        self._uids = itertools.count(1)

    @property
    def writes(self) -> list[tuple[str, str]]:
        return [request for request in self.requests if request[0] not in ("get", "list")]

    def put(self, item: Object) -> Object:
        """What someone else writes: not counted as a request."""
        metadata = {"namespace": "default", "uid": f"uid-{next(self._uids)}", "generation": 1} | item["metadata"]
        stored = {**item, "metadata": metadata | {"resourceVersion": str(next(self._versions))}}
        self.objects[item["kind"], metadata["namespace"], metadata["name"]] = stored
        return copy.deepcopy(stored)

    def take(self, kind: str, name: str, *, namespace: str = "default") -> Object:
        """What someone else deletes."""
        return self.objects.pop((kind, namespace, name))

    def new_version(self) -> int:
        return next(self._versions)

    async def get(self, kind: str, *, namespace: str, name: str, timeout: float | None = None) -> Object:
        self._note("get", kind, timeout)
        return copy.deepcopy(self._find(kind, namespace, name))

    async def list(self, kind: str, *, namespace: str | None = None, metadata_only: bool = False) -> tuple[list[Object], str]:
        self._note("list", kind, None)
        found = [item for place, item in self.objects.items() if place[0] == kind and namespace in (None, place[1])]
        if metadata_only:
            found = [{"kind": kind, "apiVersion": item["apiVersion"], "metadata": item["metadata"]} for item in found]
        return copy.deepcopy(found), str(self.new_version())

    async def create(self, wanted: Object, *, timeout: float | None = None) -> Object:
        self._note("create", wanted["kind"], timeout)
        if (wanted["kind"], wanted["metadata"].get("namespace", ""), wanted["metadata"].get("name")) in self.objects:
            raise Conflict("exists already", status=409, reason="AlreadyExists")
        return self.put(copy.deepcopy(wanted))

    async def replace(self, wanted: Object, *, timeout: float | None = None) -> Object:
        self._note("replace", wanted["kind"], timeout)
        metadata = wanted["metadata"]
        known = self._find(wanted["kind"], metadata["namespace"], metadata["name"])
        self._expect(known, resourceVersion=metadata["resourceVersion"])
        return self.put(copy.deepcopy(wanted))

    async def apply(self, wanted: Object, *, timeout: float | None = None) -> Object:
        self._note("apply", wanted["kind"], timeout)
        place = (wanted["kind"], wanted["metadata"]["namespace"], wanted["metadata"]["name"])
        known = self.objects.get(place)
        if known is None:
            return self.put(copy.deepcopy(wanted))
        merged = {**copy.deepcopy(wanted), "metadata": known["metadata"] | copy.deepcopy(wanted["metadata"])}
        return copy.deepcopy(known) if merge_patch(known, merged) is None else self.put(merged)

    async def merge(
        self,
        kind: str,
        *,
        namespace: str,
        name: str,
        patch: Object,
        subresource: str | None = None,
        timeout: float | None = None,
    ) -> Object:
        self._note("status" if subresource else "patch", kind, timeout)
        known = self._find(kind, namespace, name)
        preconditions = {k: patch.get("metadata", {}).get(k) for k in ("uid", "resourceVersion")}
        self._expect(known, **{k: v for k, v in preconditions.items() if v is not None})
        merged = _merged(known, {k: v for k, v in patch.items() if k != "metadata" or not subresource})
        return copy.deepcopy(known) if merged == known else self.put(merged)

    async def delete(self, kind: str, *, namespace: str, name: str, uid: str, timeout: float | None = None) -> Object:
        self._note("delete", kind, timeout)
        self._expect(self._find(kind, namespace, name), uid=uid)
        del self.objects[kind, namespace, name]
        return {"kind": "Status", "status": "Success"}

    def _note(self, verb: str, kind: str, timeout: float | None) -> None:
        self.before(verb, kind)
        self.requests.append((verb, kind))
        self.timeouts.append(timeout)

    def _find(self, kind: str, namespace: str, name: str) -> Object:
        try:
            return self.objects[kind, namespace, name]
        except KeyError:
            raise NotFound(f"no {kind} {namespace}/{name}", status=404) from None

    def _expect(self, known: Object, **preconditions: str) -> None:
        if any(known["metadata"][name] != value for name, value in preconditions.items()):
            raise Conflict("precondition failed", status=409, reason="Conflict")


def _merged(known: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = dict(known) if isinstance(known, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), value)
    return merged


def job(name: str = "a", **spec: Any) -> Object:
    """A TrainingJob as a user would write it, for the engine: planners would want more in it."""
    return {"apiVersion": API_VERSION, "kind": "TrainingJob", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


def pod(name: str, *, owner: Object, **labels: str) -> Object:
    """A child of a TrainingJob."""
    of = owner["metadata"]
    ours = {"app.kubernetes.io/managed-by": "modelmill", "modelmill.io/trainingjob": of["name"], "modelmill.io/uid": of["uid"]}
    metadata = {"name": name, "namespace": of["namespace"], "labels": ours | labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"nodeName": "n1", "containers": []}}


class Clock:
    """Time that passes when a test says so."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
