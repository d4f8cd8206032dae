"""The run: which requests are due, the connections that send them, and what became of them.

Closed loop: whenever a connection is idle, a request is due. Open loop: a thread wakes up at the times of a schedule
(event loops wake up by the millisecond, threads by some microseconds); a request that finds no idle connection
waits for one, and a new one is opened.
"""

import asyncio
import random
import ssl
import threading
import time
from collections import deque

from modelmill.cli.load.connection import MAX_TEXT, TIMED_OUT, Connection
from modelmill.cli.load.plan import Plan, Report
from modelmill.cli.load.schedule import poisson

REFUSED = "refused"
PAUSE_AFTER_FAILURE_SECONDS = 0.05
MAX_CONNECTIONS = 1024
"""Of the open loop; what is due beyond it waits."""


class Run:
    """One run. `report` may be asked at any time; `stop` ends it early, after the requests under way."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._request = plan.message
        self._tls = ssl.create_default_context(cafile=plan.ca) if plan.tls else None
        self._all: set[Connection] = set()
        self._idle: deque[Connection] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._waiting: deque[float] = deque()
        """When requests were due that wait for a connection."""
        self._ending = threading.Event()
        self._quiet = asyncio.Event()
        self._told = Report()
        self._told_at, self._cpu_at = time.perf_counter(), time.process_time()

    async def go(self) -> None:
        """Ends when every request that was due has been answered or given up."""
        loop = asyncio.get_running_loop()
        self._told_at, self._cpu_at = time.perf_counter(), time.process_time()
        for _ in range(self._plan.connections):
            self._open()
        sweeper = loop.create_task(self._sweep())
        if self._plan.rate is None:
            loop.call_later(self._plan.seconds, self.stop)
        else:
            await asyncio.wait(self._opening)
            threading.Thread(target=self._pace, args=(loop, self._plan.rate), daemon=True).start()
        await self._quiet.wait()
        for task in (sweeper, *self._opening):
            task.cancel()
        for connection in tuple(self._all):
            connection.close()

    def stop(self) -> None:
        self._ending.set()
        self._settle()

    def report(self, *, final: bool = False) -> Report:
        """What happened since the report before."""
        told, self._told = self._told, Report()
        now, cpu = time.perf_counter(), time.process_time()
        told.seconds, told.cpu_seconds, told.final = now - self._told_at, cpu - self._cpu_at, final
        self._told_at, self._cpu_at = now, cpu
        return told

    def _pace(self, loop: asyncio.AbstractEventLoop, rate: float) -> None:
        """The open loop's thread."""
        began = time.perf_counter()
        for due in poisson(rate, seconds=self._plan.seconds, source=random.Random()):
            if self._ending.wait(max(0.0, began + due - time.perf_counter())):
                return
            loop.call_soon_threadsafe(self._due, began + due)
        if not self._ending.wait(max(0.0, began + self._plan.seconds - time.perf_counter())):
            loop.call_soon_threadsafe(self.stop)

    def _due(self, due: float) -> None:
        self._told.late.record(time.perf_counter() - due)
        while self._idle:
            connection = self._idle.pop()
            if not connection.closing:
                connection.send(due)
                return
        self._waiting.append(due)
        if len(self._all) + len(self._opening) < MAX_CONNECTIONS:
            self._open()

    def idle(self, connection: Connection) -> None:
        if self._waiting:
            connection.send(self._waiting.popleft())
        elif self._plan.rate is None and not self._ending.is_set():
            connection.send(time.perf_counter())
        else:
            self._idle.append(connection)
            self._settle()

    def answered(self, *, status: int, due: float, text: bytes) -> None:
        if status < 300:
            self._told.latencies.record(time.perf_counter() - due)
        self._told.count(str(status), text.decode(errors="replace"))

    def failed(self, code: str, text: str) -> None:
        self._told.count(code, text)

    def gone(self, connection: Connection) -> None:
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if self._needs_another():
            self._open(after=PAUSE_AFTER_FAILURE_SECONDS if connection.failed else 0.0)
        self._settle()

    def _needs_another(self) -> bool:
        """After a connection went away, or could not be made."""
        return bool(self._waiting) or (self._plan.rate is None and not self._ending.is_set())

    def _settle(self) -> None:
        if self._ending.is_set() and not self._waiting and not any(connection.busy for connection in self._all):
            self._quiet.set()

    def _open(self, *, after: float = 0.0) -> None:
        task = asyncio.get_running_loop().create_task(self._connect(after))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _connect(self, after: float) -> None:
        await asyncio.sleep(after)
        name = self._plan.host if self._tls else None
        try:
            await asyncio.get_running_loop().create_connection(
                self._connection, self._plan.host, self._plan.port, ssl=self._tls, server_hostname=name
            )
        except OSError as error:
            self._refused(error)

    def _connection(self) -> Connection:
        connection = Connection(self, self._request)
        self._all.add(connection)
        return connection

    def _refused(self, error: OSError) -> None:
        if self._plan.rate is None:
            self.failed(REFUSED, str(error)[:MAX_TEXT])
        elif self._waiting:
            self._waiting.popleft()
            self.failed(REFUSED, str(error)[:MAX_TEXT])
        if self._needs_another():
            self._open(after=PAUSE_AFTER_FAILURE_SECONDS)
        self._settle()

    async def _sweep(self) -> None:
        """Gives up what waits for longer than the timeout."""
        while True:
            await asyncio.sleep(min(1.0, self._plan.timeout / 4))
            before = time.perf_counter() - self._plan.timeout
            for connection in tuple(self._all):
                connection.expire(before)
            while self._waiting and self._waiting[0] < before:
                self._waiting.popleft()
                self.failed(TIMED_OUT, "no connection was free in time")
            self._settle()
