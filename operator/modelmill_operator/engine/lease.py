"""One writer at a time: the elector over a coordination.k8s.io Lease, and the fence that every write has to pass.

Clocks of machines are never compared. The leader trusts its Lease for 90 % of its duration from the moment *before* it sent the
last renewal that succeeded; a standby takes a Lease that it has seen unchanged for the whole duration since it *read* it. So the
leader's fence closes before anyone else can lead, and no write is sent with a time-out that outlives the fence.

An API server that cannot be reached closes the fence, and nothing else: the process lives on, and goes on when it reads that the
Lease is still its own. Only another holder makes it `LeaseLost`, after which it must exit: what it believes is out of date.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from modelmill_operator.actions import Object
from modelmill_operator.engine.client import ApiError, Client, Conflict, NotFound
from modelmill_operator.settings import Settings

logger = logging.getLogger(__name__)

_TRUST = 0.9


class LeaseLost(Exception):
    """Another replica leads: this process must end without another write."""


class Fence(Protocol):
    """For how long this process may still write."""

    def remaining(self) -> float:
        """Seconds; 0 when it may not."""


class Unfenced:
    """Where exactly one replica can ever run."""

    def remaining(self) -> float:
        return float("inf")


class Lease:
    """This process's claim to the Lease."""

    def __init__(self, client: Client, settings: Settings, *, identity: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._client, self._settings, self._identity, self._clock = client, settings, identity, clock
        self._namespace = settings.lease_namespace or settings.pod_namespace or "default"
        self._timeout = max(1.0, settings.lease_duration / 3)
        self._valid_until = 0.0
        self._seen: tuple[str | None, str | None, str | None] | None = None
        self._free_at = 0.0
        self._led = False
        self._mine: Object | None = None
        self.taken = asyncio.Event()

    def remaining(self) -> float:
        return max(0.0, self._valid_until - self._clock())

    async def run(self) -> None:
        """Claims the Lease and keeps it; ends by LeaseLost alone."""
        while True:
            try:
                await self.step()
            except ApiError as error:
                logger.warning("lease: %s", error)
            await asyncio.sleep(self._pause())

    def _pause(self) -> float:
        """Until the next step. A standby does not oversleep the end of the Lease that it sees."""
        if self._mine is not None and self.remaining() > 0:
            return self._settings.lease_renew_interval
        left = self._free_at - self._clock()
        return min(self._settings.lease_retry_interval, left) if left > 0 else self._settings.lease_retry_interval

    async def step(self) -> None:
        """One attempt to claim or renew."""
        started = self._clock()
        if self._mine is None:
            lease = await self._read()
            if lease is None or not self._free(lease):
                return
        else:
            lease = self._mine
        try:
            answer = await self._write(lease)
        except ApiError:
            # Whether it was written or not is unknown, or someone else wrote: read before the next claim.
            self._mine = None
            raise
        self._mine = answer
        self._valid_until = started + _TRUST * self._settings.lease_duration
        if not self._led:
            logger.info("leading as %s", self._identity)
        self._led = True
        self.taken.set()

    async def release(self) -> None:
        """Lets a standby take over at once. For a polite end; whatever fails here costs a Lease's duration at most."""
        self._valid_until = 0.0
        if self._mine is None:
            return
        self._mine["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
        try:
            await self._client.replace(self._mine, timeout=self._timeout)
        except ApiError as error:
            logger.warning("lease: could not be released: %s", error)
        self._mine = None

    async def _read(self) -> Object | None:
        name = self._settings.lease_name
        try:
            return await self._client.get("Lease", namespace=self._namespace, name=name, timeout=self._timeout)
        except NotFound:
            fresh = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": name, "namespace": self._namespace},
                "spec": {"leaseTransitions": 0},
            }
            try:
                return await self._client.create(fresh, timeout=self._timeout)
            except Conflict:
                return None

    def _free(self, lease: Object) -> bool:
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity")
        if holder == self._identity:
            return True
        if self._led and holder:
            raise LeaseLost(f"the Lease {self._settings.lease_name} is held by {holder} now")
        if not holder:
            return True
        seen = (holder, spec.get("renewTime"), lease["metadata"].get("resourceVersion"))
        if seen != self._seen:
            duration = float(spec.get("leaseDurationSeconds") or self._settings.lease_duration)
            self._seen, self._free_at = seen, self._clock() + duration
            return False
        return self._clock() >= self._free_at

    async def _write(self, lease: Object) -> Object:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = dict(lease.get("spec") or {})
        if spec.get("holderIdentity") != self._identity:
            spec |= {"acquireTime": now, "leaseTransitions": int(spec.get("leaseTransitions") or 0) + 1}
        spec |= {
            "holderIdentity": self._identity,
            "renewTime": now,
            "leaseDurationSeconds": max(1, round(self._settings.lease_duration)),
        }
        return await self._client.replace({**lease, "spec": spec}, timeout=self._timeout)
