"""Asks the server pods of every autoscaled ModelService for their load, and tells the planner what the autoscaler makes of it.

A loop of its own beside the queue: it reads pods, not the API server, and has a service looked at only when the wanted number
changed. The same answers tell whether the service's channel has moved to another version than the one that was resolved.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp

from modelmill.contract import names
from modelmill_operator.actions import Object
from modelmill_operator.api import parse_model_service
from modelmill_operator.engine.kinds import MODEL_SERVICE, Key, uid_of
from modelmill_operator.engine.lease import Fence
from modelmill_operator.engine.metrics import Metrics
from modelmill_operator.engine.signals import SignalBoard
from modelmill_operator.engine.store import Store
from modelmill_operator.serving import plan
from modelmill_operator.serving.autoscaler import Autoscaler
from modelmill_operator.settings import Settings

logger = logging.getLogger(__name__)

_SCRAPE_SECONDS = 1.5
_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a server pod says of itself at /load."""

    concurrency_seconds: float
    uptime_seconds: float
    channel_version: int | None


@dataclass(slots=True, kw_only=True)
class _Memory:
    """What is kept of one service between two rounds."""

    autoscaler: Autoscaler
    loads: dict[str, Load] = field(default_factory=dict)


class Scaler:
    """One round for all services every few seconds."""

    def __init__(
        self,
        settings: Settings,
        *,
        store: Store,
        signals: SignalBoard,
        look_at: Callable[[Key], None],
        fence: Fence,
        metrics: Metrics,
        port: int = names.PORT_ADMIN,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._store, self._signals = settings, store, signals
        self._look_at, self._fence, self._metrics = look_at, fence, metrics
        self._port, self._clock = port, clock
        self._memories: dict[str, _Memory] = {}

    async def run(self) -> None:
        connector = aiohttp.TCPConnector(limit=_AT_ONCE)
        timeout = aiohttp.ClientTimeout(total=_SCRAPE_SECONDS)
        # Pods are asked directly: a proxy of the environment has no place between.
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session:
            while True:
                await asyncio.sleep(self._settings.autoscale_interval)
                if self._fence.remaining() > 0:
                    await self.round(session)

    async def round(self, session: aiohttp.ClientSession) -> None:
        """Asks all pods of all services once."""
        services = [(key, service) for key in self._store.resources(MODEL_SERVICE) if (service := self._store.resource(key))]
        outcomes = await asyncio.gather(
            *(self._scale(session, key, service) for key, service in services), return_exceptions=True
        )
        for (key, _), outcome in zip(services, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                # One broken service must not keep the others from scaling.
                logger.error("scaling %s/%s: %s: %s", key.namespace, key.name, type(outcome).__name__, outcome)
        alive = {uid_of(service) for _, service in services}
        for uid in self._memories.keys() - alive:
            del self._memories[uid]

    async def _scale(self, session: aiohttp.ClientSession, key: Key, service: Object) -> None:
        uid = uid_of(service)
        pods = _ready_pods(service, self._store.children(key, uid=uid))
        answers = await asyncio.gather(*(self._ask(session, pod) for pod in pods))
        loads = {uid_of(pod): load for pod, load in zip(pods, answers, strict=True) if load is not None}
        parsed = parse_model_service(service)
        spec = parsed.spec
        decision = None
        if spec.autoscaling == "BuiltIn":
            limits = plan.limits(parsed)
            memory = self._memories.setdefault(uid, _Memory(autoscaler=Autoscaler(limits=limits)))
            memory.autoscaler.limits = limits
            now = self._clock()
            concurrency = total_concurrency(memory.loads, loads, pods=len(pods))
            if concurrency is not None:
                memory.autoscaler.observe(now, concurrency=concurrency)
            memory.loads = loads
            decision = memory.autoscaler.decide(now, ready=len(pods))
        resolved = ((service.get("status") or {}).get("resolved") or {}).get("version")
        channel_version = moved_to(loads, resolved=resolved)
        if self._signals.scale(uid, decision=decision, channel_version=channel_version):
            self._metrics.scaling_decisions.labels(decision.reason if decision else "ChannelMoved").inc()
            self._look_at(key)

    async def _ask(self, session: aiohttp.ClientSession, pod: Object) -> Load | None:
        address = pod["status"]["podIP"]
        host = f"[{address}]" if ":" in address else address
        try:
            async with session.get(f"http://{host}:{self._port}/load") as response:
                response.raise_for_status()
                raw = await response.json()
            version = raw.get("channelVersion")
            return Load(
                concurrency_seconds=float(raw["concurrencySeconds"]),
                uptime_seconds=float(raw["uptimeSeconds"]),
                channel_version=int(version) if version is not None else None,
            )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.debug("pod %s does not tell its load: %s", pod["metadata"]["name"], error)
            return None


def moved_to(loads: dict[str, Load], *, resolved: int | None) -> int | None:
    """The version that the channel points to now, when that is not the resolved one. Pods look every few seconds: only
    when they agree is it news, or one that looked early would have an old answer asked for again."""
    seen = {load.channel_version for load in loads.values() if load.channel_version is not None}
    return seen.pop() if len(seen) == 1 and resolved is not None and seen != {resolved} else None


def total_concurrency(before: dict[str, Load], after: dict[str, Load], *, pods: int) -> float | None:
    """Requests in flight in all pods together, averaged since the round before; None when nobody could tell.

    Pods that did not answer, or are new, are taken to be as busy as those that did.
    """
    averages = [
        (load.concurrency_seconds - before[uid].concurrency_seconds) / (load.uptime_seconds - before[uid].uptime_seconds)
        for uid, load in after.items()
        # A container that was started anew counts from zero again.
        if uid in before and load.uptime_seconds > before[uid].uptime_seconds
    ]
    return max(0.0, sum(averages)) / len(averages) * pods if averages else None


def _ready_pods(service: Object, children: list[Object]) -> list[Object]:
    version = (service.get("status") or {}).get("version")
    return [
        child
        for child in children
        if child["kind"] == "Pod"
        and child["metadata"]["labels"].get(names.LABEL_ROLE) == names.ROLE_SERVER
        and (version is None or child["metadata"]["labels"].get(names.LABEL_VERSION) == str(version))
        and not child["metadata"].get("deletionTimestamp")
        and (child.get("status") or {}).get("podIP")
        and any(c["type"] == "Ready" and c["status"] == "True" for c in child["status"].get("conditions") or [])
    ]
