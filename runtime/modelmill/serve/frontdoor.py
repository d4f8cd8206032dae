"""What every request passes, whatever its protocol: the API key, the route, errors as JSON, metrics, the access log.

A request is counted once, with the code of its answer. Those that end before or beyond the handlers (a body that is
too large, a client that went away) are counted too, under the protocol `none`.
"""

import logging
import time
from collections.abc import Mapping
from typing import Any

from modelmill.observe.concurrency import Concurrency
from modelmill.observe.logs import AccessLog
from modelmill.observe.metrics import Metrics
from modelmill.serve.auth import ApiKeys
from modelmill.serve.errors import Refusal, Unauthorized, UnsupportedEncoding
from modelmill.serve.http import CLIENT_GONE, Handler, Request, Response, error_response
from modelmill.serve.router import Route, Router

log = logging.getLogger(__name__)
OPEN_PATHS = frozenset({"/", "/v2/health/live", "/v2/health/ready"})
"""Need no API key: load balancers ask them."""


class FrontDoor:
    def __init__(self, routes: tuple[Route, ...], *, keys: ApiKeys | None, concurrency: Concurrency, metrics: Metrics) -> None:
        self._router = Router(routes)
        self._keys = keys
        self._concurrency = concurrency
        self._metrics = metrics
        self._access = AccessLog()

    def __call__(self, request: Request) -> Any:
        began = time.perf_counter()
        protocol = "none"
        try:
            if self._keys and request.path not in OPEN_PATHS:
                self._keys.check(request)
            route, values = self._router.find(request)
            protocol = route.protocol
            if route.inference:
                _refuse_encoded(request)
                return self._infer(route, request, values, began)
            answer = route.endpoint(request, values)
            assert isinstance(answer, Response)
        except Exception as error:
            answer = refused(error)
        return self._finish(request, answer, protocol, began)

    async def _infer(self, route: Route, request: Request, values: Mapping[str, str], began: float) -> Response:
        self._concurrency.enter()
        try:
            answer = route.endpoint(request, values)
            response = answer if isinstance(answer, Response) else await answer
        except Exception as error:
            response = refused(error)
        finally:
            self._concurrency.leave()
        return self._finish(request, response, route.protocol, began)

    def _finish(self, request: Request, response: Response, protocol: str, began: float) -> Response:
        seconds = time.perf_counter() - began
        sent = sum(memoryview(part).nbytes for part in response.body)
        self._metrics.requests.labels(protocol, response.status).inc()
        self._metrics.request_seconds.labels(protocol).observe(seconds)
        self._metrics.received_bytes.inc(len(request.body))
        self._metrics.sent_bytes.inc(sent)
        self._access.write(
            method=request.method,
            path=request.path,
            status=response.status,
            seconds=seconds,
            received=len(request.body),
            sent=sent,
        )
        return response

    def unanswered(self, status: int) -> None:
        """For the listener: a request ended without passing here."""
        self._metrics.requests.labels("none", status).inc()
        if status == CLIENT_GONE:
            self._metrics.cancelled.inc()


def _refuse_encoded(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise UnsupportedEncoding(f"Content-Encoding {encoding[:40]!r} is not supported: send the body as it is")


def plain_handler(routes: tuple[Route, ...]) -> Handler:
    """Routes without key, metrics or log: the admin port."""
    router = Router(routes)

    def handle(request: Request) -> Any:
        try:
            route, values = router.find(request)
            return route.endpoint(request, values)
        except Exception as error:
            return refused(error)

    return handle


def refused(error: Exception) -> Response:
    if not isinstance(error, Refusal):
        log.error("a handler failed", exc_info=error)
        return error_response(500, f"internal error: {type(error).__name__}; the server's log has the details")
    headers: list[tuple[str, str]] = []
    if error.retry_after is not None:
        headers.append(("Retry-After", str(error.retry_after)))
    if isinstance(error, Unauthorized):
        headers.append(("WWW-Authenticate", "Bearer"))
    return error_response(error.status, str(error), headers=tuple(headers))
