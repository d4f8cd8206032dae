"""Kubernetes Events about our resources, few and counted: users read them in `kubectl describe`.

The name of an Event follows from what it says about which incarnation, so that a repeat, also after a restart of the operator,
raises the count of the one that is there. Repeats are written at most once a minute, and a resource that says many different
things is cut short. Events are written beside the work, never before it, and one that is lost fails nothing.
"""

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from modelmill_operator.actions import Emit, Object
from modelmill_operator.engine.client import ApiError, Conflict
from modelmill_operator.engine.kinds import uid_of
from modelmill_operator.engine.metrics import Metrics
from modelmill_operator.engine.writer import NotLeading, Writer

logger = logging.getLogger(__name__)

REPEAT_SECONDS = 60.0
BURST = 10
REFILL_SECONDS = 60.0
_REMEMBERED = 10_000
_QUEUED = 1_000
_MESSAGE_LIMIT = 1_000


@dataclass(slots=True, kw_only=True)
class _Series:
    """One thing that is said about one resource."""

    about: Object
    emit: Emit
    name: str
    count: int = 0
    written: int = 0
    written_at: float | None = None
    queued: bool = False


@dataclass(slots=True, kw_only=True)
class _Allowance:
    """How many new things a resource may still say."""

    tokens: float = BURST
    at: float = field(default=0.0)


class EventRecorder:
    """Collects what planners tell and writes it."""

    def __init__(self, writer: Writer, *, metrics: Metrics, reporter: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._writer, self._metrics, self._reporter, self._clock = writer, metrics, reporter, clock
        self._series: OrderedDict[str, _Series] = OrderedDict()
        self._allowances: OrderedDict[str, _Allowance] = OrderedDict()
        self._queue: asyncio.Queue[_Series] = asyncio.Queue(maxsize=_QUEUED)

    def emit(self, resource: Object, emit: Emit) -> None:
        """Notes the Event; `run` writes it."""
        name = _name(resource, emit)
        series = self._series.get(name)
        if series is None:
            if not self._allowed(uid_of(resource)):
                self._metrics.events_dropped.inc()
                return
            series = self._series[name] = _Series(about=_reference(resource), emit=emit, name=name)
            _bound(self._series)
        series.count += 1
        recent = series.written_at is not None and self._clock() - series.written_at < REPEAT_SECONDS
        if series.queued or recent:
            return
        try:
            self._queue.put_nowait(series)
            series.queued = True
        except asyncio.QueueFull:
            self._metrics.events_dropped.inc()

    async def run(self) -> None:
        while True:
            series = await self._queue.get()
            series.queued = False
            try:
                await self._write(series)
            except (ApiError, NotLeading) as error:
                # The work itself is more important: whoever sees the resource again will tell it again.
                self._metrics.events_dropped.inc()
                logger.info("event %s %s was not written: %s", series.emit.reason, series.name, error or "not leading")

    async def _write(self, series: _Series) -> None:
        count, now = series.count, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        namespace = series.about["namespace"]
        series.written_at = self._clock()
        if series.written:
            await self._count_up(series, namespace=namespace, count=count, now=now)
        else:
            try:
                await self._writer.create(self._event(series, now=now))
            except Conflict:
                # An earlier life of the operator told it already.
                await self._count_up(series, namespace=namespace, count=count, now=now)
        series.written = count

    async def _count_up(self, series: _Series, *, namespace: str, count: int, now: str) -> None:
        known = await self._writer.refresh("Event", namespace=namespace, name=series.name)
        if known is None:  # expired: tell it anew
            await self._writer.create(self._event(series, now=now))
            return
        patch = {"count": int(known.get("count") or 1) + count - series.written, "lastTimestamp": now}
        await self._writer.merge("Event", namespace=namespace, name=series.name, patch=patch)

    def _event(self, series: _Series, *, now: str) -> Object:
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": series.name, "namespace": series.about["namespace"]},
            "involvedObject": series.about,
            "type": series.emit.type,
            "reason": series.emit.reason,
            "message": series.emit.message[:_MESSAGE_LIMIT],
            "count": series.count - series.written,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": "modelmill-operator"},
            "reportingComponent": "modelmill-operator",
            "reportingInstance": self._reporter,
        }

    def _allowed(self, uid: str) -> bool:
        now = self._clock()
        allowance = self._allowances.setdefault(uid, _Allowance(at=now))
        _bound(self._allowances)
        allowance.tokens = min(float(BURST), allowance.tokens + (now - allowance.at) / REFILL_SECONDS)
        allowance.at = now
        if allowance.tokens < 1:
            return False
        allowance.tokens -= 1
        return True


def _name(resource: Object, emit: Emit) -> str:
    text = "\n".join((uid_of(resource), emit.type, emit.reason, emit.message))
    return f"{resource['metadata']['name']}.{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _reference(resource: Object) -> Object:
    metadata = resource["metadata"]
    return {
        "apiVersion": resource["apiVersion"],
        "kind": resource["kind"],
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "uid": metadata["uid"],
    }


def _bound(memory: "OrderedDict[str, _Series] | OrderedDict[str, _Allowance]") -> None:
    if len(memory) > _REMEMBERED:
        memory.popitem(last=False)
