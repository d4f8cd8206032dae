"""The engine around a fake API, with time and planners that a test chooses."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from modelmill_operator.actions import Object, Plan, Signals
from modelmill_operator.engine.budget import Budget
from modelmill_operator.engine.events import EventRecorder
from modelmill_operator.engine.execute import Executor
from modelmill_operator.engine.kinds import MODEL_SERVICE, TRAINING_JOB, Key
from modelmill_operator.engine.loop import Loop
from modelmill_operator.engine.metrics import Metrics
from modelmill_operator.engine.queue import WorkQueue
from modelmill_operator.engine.signals import SignalBoard
from modelmill_operator.engine.store import Store
from modelmill_operator.engine.sweep import Sweeper
from modelmill_operator.engine.writer import Writer
from modelmill_operator.settings import Settings
from tests.unit.engine.fake_api import Clock, FakeApi

Planned = Callable[[Object, Sequence[Object]], Plan]
SETTINGS = Settings(runtime_image="runtime")


class Gate:
    """A fence that a test opens and closes."""

    def __init__(self) -> None:
        self.left = 10.0

    def remaining(self) -> float:
        return self.left


class Harness:
    """One process of the operator. Several, one after the other, may share an API."""

    def __init__(self, api: FakeApi, plan: Planned, *, clock: Clock | None = None) -> None:
        self.api, self.clock, self.gate, self.metrics = api, clock or Clock(), Gate(), Metrics()
        self.store, self.signals = Store(), SignalBoard()
        self.queue = WorkQueue(retry_min=1, retry_max=60, clock=self.clock)
        budget = Budget(rate=1e6, burst=1000)
        self.writer = Writer(api, fence=self.gate, budget=budget, store=self.store, metrics=self.metrics, timeout=30)
        self.events = EventRecorder(self.writer, metrics=self.metrics, reporter="test", clock=self.clock)
        self.executor = Executor(self.writer, store=self.store, events=self.events)

        def planner(resource: Object, children: Sequence[Object], *, now: datetime, settings: Settings, signals: Signals) -> Plan:
            self.seen_signals = signals
            return plan(resource, children)

        self.loop = Loop(
            settings=SETTINGS,
            planners={TRAINING_JOB: planner, MODEL_SERVICE: planner},
            store=self.store,
            queue=self.queue,
            executor=self.executor,
            events=self.events,
            signals=self.signals,
            fence=self.gate,
            metrics=self.metrics,
            now=lambda: datetime(2026, 1, 1, tzinfo=UTC),
        )
        self.sweeper = Sweeper(
            api, SETTINGS, store=self.store, metrics=self.metrics, changed=self.loop.changed, look_at=self.loop.look_at
        )

    async def settle(self, *, rounds: int = 50) -> None:
        """Sweeps, leads, and works until nothing waits."""
        await self.sweeper.sweep()
        self.loop.start_leading()
        await self.drain(rounds=rounds)

    async def drain(self, *, rounds: int = 50) -> None:
        workers = [asyncio.create_task(self.loop.work(number)) for number in range(2)]
        try:
            for _ in range(rounds):
                await asyncio.sleep(0)
                if self.queue.depth() == 0 and not self.loop.busy():
                    break
            else:
                logging.getLogger(__name__).warning("still busy after %d rounds", rounds)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    def waiting(self, key: Key) -> bool:
        return self.queue.take() == key
