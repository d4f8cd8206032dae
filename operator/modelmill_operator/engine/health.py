"""/healthz, /readyz and /metrics.

/healthz fails when only a restart can help: a worker that has been at one resource for ten minutes, a task of the engine that
ended, watches whose thread is stuck. That the event loop answers is its heartbeat. An API server that is down fails nothing: a
restart would not bring it back. /readyz tells that everything has been listed once: this replica knows what it would lead.
"""

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

Check = Callable[[], str | None]
"""None when all is well, else what is wrong, in words."""


def application(*, live: Mapping[str, Check], ready: Mapping[str, Check], registry: CollectorRegistry) -> web.Application:
    """The three pages."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/healthz", _page(live))
    app.router.add_get("/readyz", _page(ready))
    app.router.add_get("/metrics", metrics)
    return app


def _page(checks: Mapping[str, Check]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def page(_: web.Request) -> web.StreamResponse:
        found = {name: check() for name, check in checks.items()}
        text = "".join(f"{name}: {wrong or 'ok'}\n" for name, wrong in found.items())
        return web.Response(text=text, status=503 if any(found.values()) else 200)

    return page
