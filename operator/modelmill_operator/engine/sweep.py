"""Lists everything now and then, and tells the engine what no watch told: the level under the edges.

After a watch was cut off and the history is gone, kopf lists again, but never tells what vanished meanwhile: such ghosts live
until they are compared with a complete list. The first sweep fills the store; later ones read metadata, and whole objects only
where these differ. A full resync, spread over its period, has every resource looked at even if nothing changed.

A replica that comes to lead sweeps first: its watches may be behind those of the leader before it, each by another time,
and a status that counts pods which the store does not have yet would look like a loss.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress

from modelmill_operator.actions import Object
from modelmill_operator.engine.client import ApiError, Client
from modelmill_operator.engine.kinds import WATCHED, Key
from modelmill_operator.engine.metrics import Metrics
from modelmill_operator.engine.store import Store
from modelmill_operator.settings import Settings

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0


class Sweeper:
    """Compares the store with the API server's lists."""

    def __init__(
        self,
        client: Client,
        settings: Settings,
        *,
        store: Store,
        metrics: Metrics,
        changed: Callable[[Object], None],
        look_at: Callable[[Key], None],
    ) -> None:
        self._client, self._settings, self._store, self._metrics = client, settings, store, metrics
        self._changed, self._look_at = changed, look_at
        self.swept = asyncio.Event()
        self._soon = asyncio.Event()

    async def usable(self) -> None:
        """Waits until every watched kind can be listed: the API server answers, our kinds exist, and we may."""
        delay = _RETRY_SECONDS
        while True:
            try:
                await asyncio.gather(
                    *(self._client.can_list(kind, namespace=namespace) for kind in WATCHED for namespace in self._namespaces())
                )
                return
            except ApiError as error:
                logger.warning("cannot list everything yet: %s", error)
            await asyncio.sleep(delay * random.uniform(0.8, 1.2))
            delay = min(15.0, delay * 1.5)

    async def run(self) -> None:
        """Sweeps at once, and then for ever."""
        while True:
            try:
                await self.sweep()
            except ApiError as error:
                logger.warning("sweep: %s", error)
                await asyncio.sleep(_RETRY_SECONDS * random.uniform(1, 3))
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.sweep_interval * random.uniform(0.8, 1.2)):
                        await self._soon.wait()
                self._soon.clear()

    def soon(self) -> None:
        """The watches began anew: what vanished before is not waited for."""
        self._soon.set()

    async def sweep(self) -> int:
        """One comparison of everything; how many objects had to be repaired."""
        first = not self.swept.is_set()
        repaired = 0
        # Children are made before the status that counts them is written, so they are listed after it is read.
        for own in (True, False):
            places = [(name, namespace) for name, kind in WATCHED.items() if kind.own is own for namespace in self._namespaces()]
            counts = await asyncio.gather(*(self._sweep_kind(kind, namespace=space, first=first) for kind, space in places))
            repaired += sum(counts)
        self.swept.set()
        if repaired and not first:
            logger.info("sweep: %d objects were not as the watches told", repaired)
        return repaired

    async def until_swept(self) -> None:
        """One sweep that begins now and succeeds."""
        while True:
            try:
                await self.sweep()
                return
            except ApiError as error:
                logger.warning("sweep: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)

    async def resync(self) -> None:
        """Has every resource looked at once in each period, one after the other."""
        while True:
            keys = self._store.resources()
            if not keys:
                await asyncio.sleep(self._settings.resync_interval)
            for key in keys:
                await asyncio.sleep(self._settings.resync_interval / len(keys))
                self._look_at(key)

    async def _sweep_kind(self, kind: str, *, namespace: str | None, first: bool) -> int:
        items, version = await self._client.list(kind, namespace=namespace, metadata_only=not first)
        ghosts = self._store.ghosts(kind, listed=items, version=int(version), namespace=namespace)
        repaired = [ghost for ghost in ghosts if self._store.remove(ghost)]
        missed = [item for item in items if self._store.is_news(item)]
        if missed and not first:
            missed, _ = await self._client.list(kind, namespace=namespace)
        repaired += [item for item in missed if self._store.upsert(item)]
        for item in repaired:
            self._changed(item)
        if repaired and not first:
            self._metrics.sweep_repairs.labels(kind).inc(len(repaired))
        return len(repaired)

    def _namespaces(self) -> tuple[str | None, ...]:
        return self._settings.namespaces or (None,)
