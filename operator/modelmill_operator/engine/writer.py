"""The one door for writes: each passes the fence, the write budget and the metrics, and its answer goes into the store.

The answer is in the store before the caller goes on (read your own writes), so a plan made right after never repeats a write that
was answered, however far the watch lags behind.
"""

from collections.abc import Awaitable, Callable

from modelmill_operator.actions import Delete, Object
from modelmill_operator.engine.budget import Budget
from modelmill_operator.engine.client import ApiError, Client, Conflict, NotFound
from modelmill_operator.engine.kinds import KINDS, WATCHED, uid_of
from modelmill_operator.engine.lease import Fence
from modelmill_operator.engine.metrics import Metrics
from modelmill_operator.engine.store import Store, version_of

# A request that could not end in this time is not worth sending.
_LEAST_TIME = 0.05


class NotLeading(Exception):
    """This process may not write now."""


class Writer:
    """Writes for whoever leads."""

    def __init__(self, client: Client, *, fence: Fence, budget: Budget, store: Store, metrics: Metrics, timeout: float) -> None:
        self._client, self._fence, self._budget = client, fence, budget
        self._store, self._metrics, self._timeout = store, metrics, timeout

    async def create(self, wanted: Object) -> Object:
        created = await self._send("create", wanted["kind"], lambda timeout: self._client.create(wanted, timeout=timeout))
        return self._keep(wanted["kind"], created)

    async def apply(self, wanted: Object) -> Object:
        applied = await self._send("apply", wanted["kind"], lambda timeout: self._client.apply(wanted, timeout=timeout))
        return self._keep(wanted["kind"], applied)

    async def merge(self, kind: str, *, namespace: str, name: str, patch: Object, subresource: str | None = None) -> Object:
        verb = "status" if subresource == "status" else "patch"
        patched = await self._send(
            verb,
            kind,
            lambda timeout: self._client.merge(
                kind, namespace=namespace, name=name, patch=patch, subresource=subresource, timeout=timeout
            ),
        )
        return self._keep(kind, patched)

    async def delete(self, what: Delete) -> None:
        """Deletes this incarnation; one that is gone or replaced is fine."""
        try:
            answer = await self._send(
                "delete",
                what.kind,
                lambda timeout: self._client.delete(
                    what.kind, namespace=what.namespace, name=what.name, uid=what.uid, timeout=timeout
                ),
            )
        except (NotFound, Conflict):
            self._gone(what)
            return
        if answer.get("kind") == what.kind and answer["metadata"].get("deletionTimestamp"):
            self._store.upsert(answer)
        else:
            self._gone(what)

    def _gone(self, what: Delete) -> None:
        metadata = {"namespace": what.namespace, "name": what.name, "uid": what.uid}
        self._store.remove({"apiVersion": KINDS[what.kind].api_version, "kind": what.kind, "metadata": metadata})

    async def refresh(self, kind: str, *, namespace: str, name: str) -> Object | None:
        """The object as it is now, also for the store."""
        try:
            return self._keep(kind, await self._client.get(kind, namespace=namespace, name=name))
        except NotFound:
            return None

    async def _send(self, verb: str, kind: str, request: Callable[[float], Awaitable[Object]]) -> Object:
        self._metrics.write_wait_seconds.inc(await self._budget.spend())
        timeout = min(self._timeout, self._fence.remaining())
        if timeout < _LEAST_TIME:
            raise NotLeading
        try:
            answer = await request(timeout)
        except ApiError as error:
            self._metrics.writes.labels(verb, kind, error.reason or type(error).__name__).inc()
            raise
        self._metrics.writes.labels(verb, kind, "ok").inc()
        return answer

    def _keep(self, kind: str, item: Object) -> Object:
        if kind in WATCHED:
            self._store.upsert(item)
        return item


def changed(before: Object | None, after: Object) -> bool:
    """False when a write was answered, but changed nothing."""
    return before is None or uid_of(before) != uid_of(after) or version_of(before) != version_of(after)
