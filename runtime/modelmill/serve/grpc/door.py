"""Where calls come in: the path leads to a method, past the API key."""

import time
from collections.abc import Callable
from functools import partial

from modelmill.serve.auth import ApiKeys
from modelmill.serve.errors import Refusal
from modelmill.serve.grpc.calls import Streaming, Unary, refuse
from modelmill.serve.grpc.exchange import Accounts, Message, Method
from modelmill.serve.grpc.health import WATCH, Health, Watch
from modelmill.serve.grpc.status import Unimplemented, refused
from modelmill.serve.http import Limits, Request
from modelmill.serve.http2 import hpack
from modelmill.serve.http2.headers import Headers
from modelmill.serve.http2.stream import Pieces, Receiver, Stream

UNSUPPORTED = hpack.encode([(":status", "415"), ("accept", "application/grpc")])
Call = Callable[[Stream, Headers], Receiver]


class GrpcDoor:
    def __init__(self, *, keys: ApiKeys | None, accounts: Accounts, limits: Limits) -> None:
        self._keys = keys
        self._accounts = accounts
        self._limits = limits
        self._calls: dict[str, tuple[Method, Call]] = {}

    def unary(self, method: Method) -> None:
        self._calls[method.path] = method, partial(Unary, method=method, accounts=self._accounts, limits=self._limits)

    def stream(self, method: Method, *, error: Callable[[Message, str], Pieces], most: int) -> None:
        """`error` makes the answer to a request of the stream that was refused; `most` requests of one are under way."""
        call = partial(Streaming, method=method, error=error, most=most, accounts=self._accounts, limits=self._limits)
        self._calls[method.path] = method, call

    def health(self, health: Health) -> None:
        check = health.check()
        self.unary(check)
        self._calls[WATCH] = check, partial(Watch, health=health, limits=self._limits)

    def __call__(self, stream: Stream, headers: Headers) -> Receiver | None:
        if headers[":method"] != "POST" or not headers.get("content-type", "").startswith("application/grpc"):
            stream.send(trailers=UNSUPPORTED)
            return None
        path = headers[":path"]
        method, call = self._calls.get(path) or _missing(path)
        try:
            if self._keys and not method.open:
                self._keys.check(Request(method="POST", path=path, headers=dict(headers), body=b""))
            return call(stream, headers)
        except Refusal as refusal:
            outcome = refused(refusal)
            self._accounts.count(method, outcome, began=time.perf_counter(), received=0)
            refuse(stream, outcome)
            return None


def _missing(path: str) -> tuple[Method, Call]:
    def call(stream: Stream, headers: Headers) -> Receiver:
        raise Unimplemented(f"there is no method {path[:200]!r}")

    return Method(path=path, endpoint=lambda message, remaining: [], protocol="none"), call
