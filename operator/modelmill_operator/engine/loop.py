"""The workers: take a key, look at what the store knows, plan, carry out the plan, and come back when the plan says so.

Level-triggered: nothing is decided from having *seen* a change. A plan that changed anything is followed by another look; a
resource is left alone once a plan changes nothing. Standbys keep the queue empty: they look at everything when they come to
lead.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from modelmill_operator.actions import Emit, Object, Plan, Planner
from modelmill_operator.engine.client import ApiError, Conflict, NotFound, Refused
from modelmill_operator.engine.events import EventRecorder
from modelmill_operator.engine.execute import Executor, NameTaken
from modelmill_operator.engine.kinds import KINDS, MODEL_SERVICE, Key, owner_of, uid_of
from modelmill_operator.engine.lease import Fence
from modelmill_operator.engine.metrics import Metrics
from modelmill_operator.engine.publications import Publications, followers
from modelmill_operator.engine.queue import WorkQueue
from modelmill_operator.engine.signals import SignalBoard
from modelmill_operator.engine.store import Store
from modelmill_operator.engine.writer import NotLeading
from modelmill_operator.settings import Settings

logger = logging.getLogger(__name__)

_FENCE_POLL = 0.1


class Loop:
    """Brings resources to what their planners want."""

    def __init__(
        self,
        *,
        settings: Settings,
        planners: Mapping[str, Planner],
        store: Store,
        queue: WorkQueue,
        executor: Executor,
        events: EventRecorder,
        signals: SignalBoard,
        fence: Fence,
        metrics: Metrics,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings, self._planners, self._now = settings, planners, now
        self._store, self._queue, self._signals = store, queue, signals
        self._executor, self._events, self._fence, self._metrics = executor, events, fence, metrics
        self._publications = Publications()
        self._leading = False
        self._since: dict[int, float] = {}

    def start_leading(self) -> None:
        """From now on changes are worked on, beginning with everything there is."""
        self._leading = True
        for key in self._store.resources():
            self.look_at(key)

    def stop_leading(self) -> None:
        """From now on nothing new is begun."""
        self._leading = False

    def look_at(self, key: Key) -> None:
        """Something about this resource may have changed."""
        if self._leading:
            self._queue.add(key, urgent=self._is_new(key))

    def changed(self, item: Object) -> None:
        """An object changed in the store: whose it is will be looked at."""
        owner = owner_of(item)
        if owner is None:
            return
        resource = self._store.resource(owner)
        if resource is None and KINDS[item["kind"]].own:
            self._signals.drop(uid_of(item))
        self.look_at(owner)
        if channel := self._publications.note(item):
            for service in followers(self._store, channel):
                self.look_at(service)

    async def work(self, number: int) -> None:
        """One worker."""
        while True:
            # While the fence is closed nothing could be written: plans would only burn time.
            while self._fence.remaining() <= 0 or not self._leading:  # noqa: ASYNC110  # it closes by the clock alone, which sets no Event
                await asyncio.sleep(_FENCE_POLL)
            key = await self._queue.get()
            self._since[number] = time.monotonic()
            try:
                await self._look(key)
            finally:
                self._since.pop(number, None)

    def busy(self) -> bool:
        return bool(self._since)

    def longest_look(self) -> float:
        """For how long the slowest worker has been at its resource."""
        now = time.monotonic()
        return max((now - since for since in self._since.values()), default=0.0)

    async def _look(self, key: Key) -> None:
        try:
            requeue = await self.reconcile(key)
        except NotLeading:
            self._queue.hand_back(key)
            self._count(key, "not_leading")
        except (NameTaken, ApiError) as error:
            self._failed(key, error)
        except Exception:
            delay = self._queue.failed(key)
            self._count(key, "error")
            logger.exception("%s %s/%s: failed, again in %.1f s", *key, delay)
        else:
            self._queue.done(key)
            self._count(key, "ok")
            if requeue is not None:
                self._queue.add_later(key, requeue)

    async def reconcile(self, key: Key) -> float | None:
        """One look at one resource; when to look again if nothing happens."""
        resource = self._store.resource(key)
        if resource is None or not self._is_ours(resource):
            return None
        plan = self._plan(key, resource)
        # While new resources wait for their first child, the rest of a plan can wait: it will be planned again.
        effective = await self._executor.execute(resource, plan.actions, give_way=lambda: self._queue.urgent_depth() > 0)
        self._signals.refuse(uid_of(resource), None)
        if effective:
            self.look_at(key)
        return plan.requeue_after_seconds

    def _plan(self, key: Key, resource: Object) -> Plan:
        uid = uid_of(resource)
        signals = self._signals.of(uid)
        if key.kind == MODEL_SERVICE:
            signals = replace(signals, published_at=self._publications.of(resource))
        with self._metrics.plan_seconds.labels(key.kind).time():
            return self._planners[key.kind](
                resource,
                self._store.children(key, uid=uid),
                now=self._now(),
                settings=self._settings,
                signals=signals,
            )

    def _failed(self, key: Key, error: NameTaken | ApiError) -> None:
        resource = self._store.resource(key)
        if isinstance(error, NotFound) and resource is None:
            self._queue.done(key)
            return
        if isinstance(error, Refused) and resource is not None and self._signals.refuse(uid_of(resource), str(error)):
            self._events.emit(resource, Emit(type="Warning", reason="ApiRefused", message=str(error)))
        at_least = error.retry_after or 0.0 if isinstance(error, ApiError) else 0.0
        delay = self._queue.failed(key, at_least=at_least)
        # A conflict is the normal way to learn that the store was behind.
        expected = isinstance(error, Conflict)
        self._count(key, "conflict" if expected else "error")
        logger.log(logging.DEBUG if expected else logging.WARNING, "%s %s/%s: %s; again in %.1f s", *key, error, delay)

    def _is_new(self, key: Key) -> bool:
        resource = self._store.resource(key)
        return resource is not None and not resource.get("status") and not self._store.has_children(key)

    def _is_ours(self, resource: Object) -> bool:
        return not resource["metadata"].get("deletionTimestamp") and not resource["spec"].get("managedBy")

    def _count(self, key: Key, result: str) -> None:
        self._metrics.reconciles.labels(key.kind, result).inc()
