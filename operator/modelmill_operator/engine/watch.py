"""kopf as runtime and informer: it watches, and hands every event over to the engine's own event loop.

Only `on.event` handlers are used, and they do O(1) work: no finalizers, no annotations, no retries of kopf's, not one write.
kopf runs in a thread with an event loop of its own, because at its end it cancels every task that it finds in its loop. A watch
error of any kind may end it (410 or 404 as the answer, an ERROR event, a login that fails); then it is begun anew in the same
process, with a growing pause, for as long as the process lives: the store and the queue outlive it.

What vanished before kopf listed is never told by it. So its requests are traced: once everything that it listed is also watched,
`caught_up` is called, and a comparison with complete lists that begins then misses nothing.
"""

import asyncio
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import kopf

from modelmill_operator.actions import Object
from modelmill_operator.engine.client import authorization, load_configuration, tls
from modelmill_operator.engine.kinds import WATCHED
from modelmill_operator.engine.watch_settings import kopf_settings
from modelmill_operator.settings import Settings

logger = logging.getLogger(__name__)

Deliver = Callable[[str | None, Object], None]
"""Takes the type of an event (None: listed at the start) and its object."""

LOGIN_SECONDS = 300
_RESTART_MIN, _RESTART_MAX = 1.0, 30.0
_END_SECONDS = 8.0
_BEAT_SECONDS = 3.0
# One that ran for so long was fine: the next pause is short again.
_RESTART_FORGIVEN = 60.0


class Watcher:
    """Runs kopf in a thread until it is stopped."""

    def __init__(
        self,
        settings: Settings,
        *,
        deliver: Deliver,
        usable: Callable[[], Awaitable[None]],
        caught_up: Callable[[], None],
        restarted: Callable[[], None],
    ) -> None:
        self._settings, self._deliver, self._usable = settings, deliver, usable
        self._caught_up, self._restarted = caught_up, restarted
        spaces = settings.namespaces or (None,)
        self._paths = {kind.path(namespace=space) for kind in WATCHED.values() for space in spaces}
        self._unwatched: set[str] = set()
        self._arrived: deque[tuple[str | None, Object]] = deque()
        self._stop: Callable[[], object] = lambda: None
        self._loop = asyncio.get_running_loop()
        self._beat = time.monotonic()

    async def run(self) -> None:
        """Watches for ever."""
        pause = _RESTART_MIN
        while True:
            # kopf looks for the kinds once, at its start, and would silently watch none of those that it does not find.
            await self._usable()
            began = time.monotonic()
            try:
                await self._in_thread()
            except Exception as error:
                logger.warning("watching ended: %s: %s", type(error).__name__, error)
            if time.monotonic() - began > _RESTART_FORGIVEN:
                pause = _RESTART_MIN
            self._restarted()
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))
            pause = min(_RESTART_MAX, pause * 2)

    def silence(self) -> float:
        """For how long kopf's event loop has not been seen alive."""
        return time.monotonic() - self._beat

    async def _in_thread(self) -> None:
        ended: asyncio.Future[None] = self._loop.create_future()

        def tell(error: BaseException | None) -> None:
            if not ended.done():
                ended.set_exception(error) if error else ended.set_result(None)

        def thread() -> None:
            error: BaseException | None = None
            try:
                asyncio.run(self._kopf())
            except BaseException as raised:
                error = raised if isinstance(raised, Exception) else RuntimeError(repr(raised))
            with suppress(RuntimeError):  # the process ends: nobody waits any more
                self._loop.call_soon_threadsafe(tell, error)

        # A daemon: it writes nothing, so the process may end without it when it takes too long.
        running = threading.Thread(target=thread, name="kopf", daemon=True)
        running.start()
        try:
            await ended
        finally:
            self._stop()
            await asyncio.to_thread(running.join, _END_SECONDS)

    async def _kopf(self) -> None:
        # When a watch fails, kopf ends with its error, which is logged once; each task that fails with it would tell it again.
        asyncio.get_running_loop().set_exception_handler(lambda _, context: logger.debug("kopf: %s", context["message"]))
        # Begun before kopf, so kopf leaves it alone.
        beat = asyncio.create_task(self._keep_beating())
        # Not a threading.Event: kopf would wait for it in a thread that nothing ends when kopf fails by itself.
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        self._stop = lambda: loop.call_soon_threadsafe(stop.set)
        scope: Any = {"namespaces": self._settings.namespaces} if self._settings.namespaces else {"clusterwide": True}
        try:
            await kopf.operator(
                registry=self._registry(),
                settings=kopf_settings(self._settings),
                standalone=True,
                stop_flag=stop,
                **scope,
            )
        finally:
            self._stop = lambda: None
            beat.cancel()
            # Connections over TLS close a moment after they were told to; a loop that ends before leaks them.
            await asyncio.sleep(0.25)

    async def _keep_beating(self) -> None:
        cancelled: set[asyncio.Task[Any]] = set()
        while True:
            self._beat = time.monotonic()
            await asyncio.sleep(_BEAT_SECONDS)
            # A watch that was cancelled in the middle of its retries may not have noticed, and kopf, which ends because of
            # another, would wait for it for ever: deaf, and not restarted.
            still = {task for task in asyncio.all_tasks() if task.cancelling() and not task.done()}
            for task in cancelled & still:
                task.cancel()
            cancelled = still

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry, id="login")(self._login)
        for kind in WATCHED.values():
            kopf.on.event(kind.group, kind.version, kind.plural, registry=registry, id="event")(self._handler(kind.name))
        return registry

    async def _login(self, **_: Any) -> kopf.AiohttpSession:
        # Called each time the API server answers 401 or the expiry passes; the pause keeps kopf from asking dozens of times a
        # second. kopf ends when it is given credentials that have failed before: a session is always a new one.
        await asyncio.sleep(1)
        configuration = await load_configuration()
        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(self._answered)
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=tls(configuration)),
            headers=await authorization(configuration),
            trace_configs=[trace],
            # An object may be larger than the default line of a stream.
            read_bufsize=2**21,
        )
        expiration = datetime.now(UTC) + timedelta(seconds=LOGIN_SECONDS)
        return kopf.AiohttpSession(server=configuration.host, aiohttp_session=session, expiration=expiration)

    async def _answered(self, _session: object, _context: object, end: aiohttp.TraceRequestEndParams) -> None:
        path = end.url.path
        if end.method != "GET" or end.response.status != 200 or path not in self._paths:
            return
        if "watch" not in end.url.query:
            self._unwatched.add(path)
        elif path in self._unwatched:
            self._unwatched.discard(path)
            if not self._unwatched:
                self._loop.call_soon_threadsafe(self._caught_up)

    def _handler(self, kind: str) -> Any:
        api_version = WATCHED[kind].api_version

        async def handle(event: kopf.RawEvent, **_: Any) -> None:
            # Listed objects do not say what they are.
            item: Object = {**event["object"], "kind": kind, "apiVersion": api_version}
            # One wake-up for all that has come until the engine gets to it: each costs a system call.
            self._arrived.append((event["type"], item))
            if len(self._arrived) == 1:
                self._loop.call_soon_threadsafe(self._hand_over)

        return handle

    def _hand_over(self) -> None:
        while self._arrived:
            try:
                self._deliver(*self._arrived[0])
            except Exception:
                logger.exception("an event could not be taken in; the next sweep finds what it told")
            # Taken out last: an event that comes meanwhile sees that the engine is at it.
            self._arrived.popleft()
