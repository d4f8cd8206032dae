"""Puts the engine together, runs it, and ends it: politely on SIGTERM, at once when another replica has taken the Lease."""

import asyncio
import logging
import os
import signal
import socket
import sys
import uuid
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial

from aiohttp import web

from modelmill.contract import names
from modelmill_operator.actions import Object, Planner
from modelmill_operator.engine import health
from modelmill_operator.engine.budget import Budget
from modelmill_operator.engine.client import ApiError, Client
from modelmill_operator.engine.events import EventRecorder
from modelmill_operator.engine.execute import Executor
from modelmill_operator.engine.kinds import WATCHED
from modelmill_operator.engine.lease import Lease, LeaseLost, Unfenced
from modelmill_operator.engine.loop import Loop
from modelmill_operator.engine.metrics import Metrics
from modelmill_operator.engine.queue import WorkQueue
from modelmill_operator.engine.reports import Answer, ReportServer
from modelmill_operator.engine.scaling import Scaler
from modelmill_operator.engine.signals import SignalBoard
from modelmill_operator.engine.store import Freshness, Store
from modelmill_operator.engine.sweep import Sweeper
from modelmill_operator.engine.tokens import Tokens
from modelmill_operator.engine.watch import Watcher
from modelmill_operator.engine.writer import Writer
from modelmill_operator.settings import Settings

logger = logging.getLogger(__name__)

_STUCK_SECONDS = 600.0
_SILENT_SECONDS = 120.0


class Engine:
    """One replica of the operator."""

    def __init__(self, settings: Settings, *, client: Client, planners: Mapping[str, Planner], answer: Answer) -> None:
        self._settings, self._client = settings, client
        identity = f"{settings.pod_name or socket.gethostname()}_{uuid.uuid4().hex[:8]}"
        self._lease = Lease(client, settings, identity=identity) if settings.leader_election else None
        fence = self._lease or Unfenced()
        self.metrics, self.store, self._signals, self._freshness = Metrics(), Store(), SignalBoard(), Freshness()
        self.queue = WorkQueue(retry_min=settings.retry_min, retry_max=settings.retry_max)
        budget = Budget(rate=settings.writes_per_second, burst=settings.write_burst)
        writer = Writer(
            client, fence=fence, budget=budget, store=self.store, metrics=self.metrics, timeout=settings.request_timeout
        )
        self._events = EventRecorder(writer, metrics=self.metrics, reporter=identity)
        self._loop = Loop(
            settings=settings,
            planners=planners,
            store=self.store,
            queue=self.queue,
            executor=Executor(writer, store=self.store, events=self._events),
            events=self._events,
            signals=self._signals,
            fence=fence,
            metrics=self.metrics,
        )
        self._sweeper = Sweeper(
            client,
            settings,
            store=self.store,
            metrics=self.metrics,
            changed=self._loop.changed,
            look_at=self._loop.look_at,
        )
        self._watcher = Watcher(
            settings,
            deliver=self._deliver,
            usable=self._sweeper.usable,
            caught_up=self._sweeper.soon,
            restarted=self.metrics.watch_restarts.inc,
        )
        self._scaler = Scaler(
            settings,
            store=self.store,
            signals=self._signals,
            look_at=self._loop.look_at,
            fence=fence,
            metrics=self.metrics,
        )
        self._reports = ReportServer(
            settings,
            client=client,
            answer=answer,
            tokens=Tokens(client, audience=settings.report_audience),
            store=self.store,
            queue=self.queue,
            signals=self._signals,
            fence=fence,
            metrics=self.metrics,
        )
        self._fence = fence
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._gauges()

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until `stop` is set, or raises what made going on impossible."""
        async with AsyncExitStack() as stack:
            await self._serve(stack, self._health(), port=self._settings.health_listen_port)
            await self._serve(stack, self._reports.application(), port=self._settings.report_listen_port, tls=True)
            self._start_tasks()
            stopping = asyncio.create_task(stop.wait())
            try:
                ended, _ = await asyncio.wait([stopping, *self._tasks.values()], return_when=asyncio.FIRST_COMPLETED)
                for task in ended - {stopping}:
                    task.result()
                    raise RuntimeError(f"the task {task.get_name()} ended: a mistake in the operator")
                await self._end_politely()
            finally:
                stopping.cancel()
                for task in self._tasks.values():
                    task.cancel()
                await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _start_tasks(self) -> None:
        coroutines = {
            "sweep": self._sweeper.run(),
            "resync": self._sweeper.resync(),
            "watch": self._watcher.run(),
            "events": self._events.run(),
            "scaling": self._scaler.run(),
            "lead": self._lead(),
        }
        coroutines |= {f"worker-{number}": self._loop.work(number) for number in range(self._settings.workers)}
        if self._lease:
            coroutines["lease"] = self._lease.run()
        self._tasks = {name: asyncio.create_task(coroutine, name=name) for name, coroutine in coroutines.items()}

    async def _lead(self) -> None:
        # A container that was started anew may still wear the label of its former life.
        await self._label_pod(None)
        if self._lease:
            await self._lease.taken.wait()
        await self._sweeper.swept.wait()
        await self._sweeper.until_swept()
        self._loop.start_leading()
        await self._label_pod("true")
        await asyncio.Event().wait()

    async def _label_pod(self, value: str | None) -> None:
        """The Service of the report endpoint selects the leader by this label."""
        name, namespace = self._settings.pod_name, self._settings.pod_namespace
        patch: Object = {"metadata": {"labels": {names.LABEL_LEADER: value}}}
        while name and namespace:
            try:
                await self._client.merge("Pod", namespace=namespace, name=name, patch=patch)
                return
            except ApiError as error:
                logger.warning("own pod %s/%s cannot be labelled: %s", namespace, name, error)
                await asyncio.sleep(1)

    async def _end_politely(self) -> None:
        """Workers finish what they are at, so that no write of ours is under way when a standby takes over."""
        logger.info("stopping")
        self._loop.stop_leading()
        deadline = asyncio.get_running_loop().time() + self._settings.shutdown_timeout
        while self._loop.busy() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110  # it happens once
            await asyncio.sleep(0.05)
        writers = [task for name, task in self._tasks.items() if name in ("events", "lead", "lease")]
        for task in writers:
            task.cancel()
        await asyncio.gather(*writers, return_exceptions=True)
        if self._lease:
            await self._lease.release()

    def _deliver(self, event: str | None, item: Object) -> None:
        self._freshness.mark()
        self.metrics.watch_events.labels(item["kind"]).inc()
        news = self.store.remove(item) if event == "DELETED" else self.store.upsert(item)
        if news:
            self._loop.changed(item)

    async def _serve(self, stack: AsyncExitStack, app: web.Application, *, port: int, tls: bool = False) -> None:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        context = self._reports.tls() if tls else None
        await web.TCPSite(runner, self._settings.bind_address, port, ssl_context=context).start()

    def _health(self) -> web.Application:
        return health.application(
            live={"tasks": self._dead_task, "workers": self._stuck_worker, "watch": self._silent_watch},
            ready={"lists": lambda: None if self._sweeper.swept.is_set() else "not everything has been listed yet"},
            registry=self.metrics.registry,
        )

    def _dead_task(self) -> str | None:
        dead = [name for name, task in self._tasks.items() if task.done()]
        return f"ended: {', '.join(dead)}" if dead else None

    def _stuck_worker(self) -> str | None:
        longest = self._loop.longest_look()
        return f"one has been at the same resource for {longest:.0f} s" if longest > _STUCK_SECONDS else None

    def _silent_watch(self) -> str | None:
        silence = self._watcher.silence()
        return f"its event loop has been stuck for {silence:.0f} s" if silence > _SILENT_SECONDS else None

    def _gauges(self) -> None:
        gauge = self.metrics.gauge
        gauge("queue_depth", "Resources that wait to be looked at.", self.queue.depth)
        gauge("queue_oldest_seconds", "How long the resource that waits longest has waited.", self.queue.oldest_age)
        gauge("leader", "1 while this replica may write.", lambda: float(self._fence.remaining() > 0))
        gauge("watch_age_seconds", "Time since the watches last brought anything.", lambda: self._freshness.age() or 0.0)
        gauge("objects", "Objects in the store.", lambda: len(self.store))
        for kind in (kind for kind in WATCHED.values() if kind.own):
            text = f"{kind.name}s in the store."
            gauge(kind.plural, text, partial(self._count, kind.name))

    def _count(self, kind: str) -> int:
        return len(self.store.resources(kind))


async def run(settings: Settings, *, planners: Mapping[str, Planner], answer: Answer) -> int:
    """Runs the operator until it is told to stop; the exit code of the process."""
    # kopf's thread must not keep the lock of the interpreter for long whenever a request of ours goes out.
    sys.setswitchinterval(0.001)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    client = await Client.connect(timeout=settings.request_timeout)
    try:
        await Engine(settings, client=client, planners=planners, answer=answer).run(stop)
    except LeaseLost as lost:
        logger.error("ending: %s", lost)
        # Not one more turn of the event loop: a worker could be about to write.
        logging.shutdown()
        os._exit(1)
    finally:
        await client.close()
    return 0
