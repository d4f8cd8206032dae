"""What every request passes, whatever its protocol: the API key, the route, errors as JSON, metrics, the access log.

A request is counted once, with the code of its answer. Those that end before or beyond the handlers (a body that is
too large, a client that went away) are counted too, under the protocol `none`.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TypeVar

from modelmill.observe.concurrency import Concurrency
from modelmill.observe.logs import AccessLog
from modelmill.observe.metrics import Metrics
from modelmill.serve import encoding
from modelmill.serve.auth import ApiKeys
from modelmill.serve.errors import MethodNotAllowed, Refusal, Unauthorized, UnsupportedEncoding
from modelmill.serve.http import CLIENT_GONE, Handler, Pending, Request, Response, error_response, json_response
from modelmill.serve.inference import Ask, Inference
from modelmill.serve.later import Later
from modelmill.serve.router import OPENAI, Route, Router, Work
from modelmill.serve.rows import Rows

T = TypeVar("T")
log = logging.getLogger(__name__)
OPEN_PATHS = frozenset({"/", "/v2/health/live", "/v2/health/ready"})
"""Need no API key: load balancers ask them."""


class FrontDoor:
    def __init__(
        self,
        routes: tuple[Route, ...],
        *,
        inference: Inference,
        keys: ApiKeys | None,
        concurrency: Concurrency,
        metrics: Metrics,
        max_body_bytes: int,
    ) -> None:
        """`max_body_bytes` is for bodies that arrive compressed: the listener sees to the others."""
        self.inference = inference
        self.concurrency = concurrency
        self.max_body_bytes = max_body_bytes
        self._router = Router(routes)
        self.keys = keys
        self._metrics = metrics
        self._access = AccessLog()
        # One, so that compression never takes more than one processor from the model.
        self._coder = ThreadPoolExecutor(1, thread_name_prefix="modelmill-coder")

    def __call__(self, request: Request) -> Response | Pending:
        began = time.perf_counter()
        protocol = "none"
        try:
            if self.keys and request.path not in OPEN_PATHS:
                self.keys.check(request)
            route, values = self._router.find(request)
            protocol = route.protocol
            if "content-encoding" in request.headers and (coding := encoding.coding_of(request)):
                return Unpacking(self, request, coding, route=route, values=values, began=began)
            answer = route.endpoint(request, values)
            if isinstance(answer, Ask):
                return Exchange(self, request, answer, protocol=protocol, began=began)
            if not isinstance(answer, Response):
                return self.begin(request, answer, protocol=protocol, began=began)
        except Exception as error:
            answer = refused(error, protocol)
        return self.finished(request, answer, protocol=protocol, began=began)

    def begin(self, request: Request, work: Ask | Work, *, protocol: str, began: float) -> Pending:
        if isinstance(work, Ask):
            return Exchange(self, request, work, protocol=protocol, began=began)
        return work.begin(self, request, protocol=protocol, began=began)

    def finished(self, request: Request, answer: Response, *, protocol: str, began: float) -> Response:
        """An answer that did not need the model, as it is sent; such answers are small enough to be compressed here."""
        if "accept-encoding" in request.headers and answer.length >= encoding.LEAST_BYTES:
            answer = encoding.compressed(answer, request.headers["accept-encoding"])
        self.count(request, answer, protocol=protocol, began=began)
        return answer

    def in_thread(self, work: Callable[[], T], *, done: "Callable[[asyncio.Future[T]], None]") -> "asyncio.Future[T]":
        future = asyncio.get_running_loop().run_in_executor(self._coder, work)
        future.add_done_callback(done)
        return future

    def count(self, request: Request, response: Response, *, protocol: str, began: float) -> None:
        status, sent = response.status, response.length
        self._account(request.method, request.path, status, protocol=protocol, began=began, received=len(request.body), sent=sent)

    def count_bytes(self, request: Request, status: int, sent: int, *, protocol: str, began: float) -> None:
        received = len(request.body)
        self._account(request.method, request.path, status, protocol=protocol, began=began, received=received, sent=sent)

    def _account(self, method: str, path: str, status: int, *, protocol: str, began: float, received: int, sent: int) -> None:
        seconds = time.perf_counter() - began
        self._metrics.answered(protocol, status, seconds, received, sent)
        if self._access.due(status, began):
            self._access.write(method, path, status, seconds=seconds, received=received, sent=sent)

    # --- for the fast path, whose requests do not pass here

    def lets_in(self, request: Request) -> bool:
        try:
            if self.keys:
                self.keys.check(request)
        except Unauthorized:
            return False
        return True

    def count_batch(
        self, protocol: str, counts: tuple[int, ...], seconds: float, received: int, sent: int, *, path: str, began: float
    ) -> None:
        """Requests that were answered with 200; of one batch, so that a log's line tells their means."""
        self._metrics.answered_fast(protocol, 200, counts, seconds, received, sent)
        many = sum(counts)
        if self._access.due(200, began, many):
            self._access.write("POST", path, 200, seconds=seconds / many, received=received // many, sent=sent // many)

    def refuse(self, error: Exception, *, protocol: str, path: str, began: float, received: int) -> Response:
        response = refused(error, protocol)
        self._account("POST", path, response.status, protocol=protocol, began=began, received=received, sent=response.length)
        return response

    def expired(self) -> None:
        self._metrics.expired.inc()

    # --- for the listener

    def unanswered(self, status: int) -> None:
        """For the listener: a request ended without passing here."""
        self._metrics.requests.labels("none", str(status)).inc()
        if status == CLIENT_GONE:
            self._metrics.cancelled.inc()


class Exchange:
    """One request for the model, from its decoding to its answer."""

    __slots__ = ("_ask", "_began", "_call", "_coding", "_door", "_protocol", "_request", "_send")

    def __init__(self, door: FrontDoor, request: Request, ask: Ask, *, protocol: str, began: float) -> None:
        self._door = door
        self._request = request
        self._ask = ask
        self._protocol = protocol
        self._began = began
        self._coding: asyncio.Future[Response] | None = None
        self._call = door.inference.submit(ask.rows, options=ask.options, done=self._done)
        # Not before: what is refused at once is no load.
        door.concurrency.enter()

    def then(self, send: Callable[[Response], None]) -> None:
        self._send = send

    def cancel(self) -> None:
        if self._coding:
            self._coding.cancel()
            self._coding = None
            return
        self._door.concurrency.leave()
        self._call.cancel()

    def _done(self, outcome: Rows | Refusal) -> None:
        self._door.concurrency.leave()
        try:
            response = refused(outcome, self._protocol) if isinstance(outcome, Refusal) else self._ask.encode(outcome)
        except Exception as error:
            response = refused(error, self._protocol)
        if "accept-encoding" in self._request.headers and response.length >= encoding.LEAST_BYTES:
            work = partial(encoding.compressed, response, self._request.headers["accept-encoding"])
            self._coding = self._door.in_thread(work, done=self._compressed)
            return
        self._door.count(self._request, response, protocol=self._protocol, began=self._began)
        self._send(response)

    def _compressed(self, future: asyncio.Future[Response]) -> None:
        # Cancelling comes too late for what has just ended.
        if future is not self._coding:
            return
        try:
            response = future.result()
        except Exception as error:
            response = refused(error, self._protocol)
        self._door.count(self._request, response, protocol=self._protocol, began=self._began)
        self._send(response)


class Unpacking:
    """One request with a compressed body: once that is decompressed it goes the way of the others."""

    def __init__(
        self, door: FrontDoor, request: Request, coding: str, *, route: Route, values: Mapping[str, str], began: float
    ) -> None:
        self._door = door
        self._request = request
        self._route = route
        self._values = values
        self._began = began
        self._gone = False
        self._begun: Pending | None = None
        work = partial(encoding.decompressed, request.body, coding, most_bytes=door.max_body_bytes)
        self._work = door.in_thread(work, done=self._decompressed)

    def then(self, send: Callable[[Response], None]) -> None:
        self._send = send

    def cancel(self) -> None:
        self._gone = True
        self._work.cancel()
        if self._begun:
            self._begun.cancel()

    def _decompressed(self, future: asyncio.Future[bytes]) -> None:
        if self._gone:
            return
        protocol = self._route.protocol
        try:
            answer = self._route.endpoint(replace(self._request, body=future.result()), self._values)
            if not isinstance(answer, Response):
                # With the request as it came: its bytes are counted as they were on the wire.
                self._begun = self._door.begin(self._request, answer, protocol=protocol, began=self._began)
                self._begun.then(self._send)
                return
        except Exception as error:
            answer = refused(error, protocol)
        self._send(self._door.finished(self._request, answer, protocol=protocol, began=self._began))


def plain_handler(routes: tuple[Route, ...]) -> Handler:
    """Routes without key, metrics or log: the admin port."""
    router = Router(routes)

    def handle(request: Request) -> Response | Pending:
        try:
            route, values = router.find(request)
            answer = route.endpoint(request, values)
            assert isinstance(answer, Response | Later)
            return answer
        except Exception as error:
            return refused(error)

    return handle


def refused(error: Exception, protocol: str = "other") -> Response:
    if not isinstance(error, Refusal):
        log.error("a handler failed", exc_info=error)
        error = Refusal(f"internal error: {type(error).__name__}; the server's log has the details")
    headers: list[tuple[str, str]] = []
    if error.retry_after is not None:
        headers.append(("Retry-After", str(error.retry_after)))
    if isinstance(error, MethodNotAllowed):
        headers.append(("Allow", error.allowed))
    if isinstance(error, Unauthorized):
        headers.append(("WWW-Authenticate", "Bearer"))
    if isinstance(error, UnsupportedEncoding):
        headers.append(("Accept-Encoding", ", ".join(encoding.CODINGS)))
    if protocol == OPENAI:
        told = {"message": str(error), "type": type(error).__name__, "param": None, "code": None}
        return json_response({"error": told}, status=error.status, headers=tuple(headers))
    return error_response(error.status, str(error), headers=tuple(headers))
