"""One request of a call and its answer: run, counted once, and cancelled when its client goes away."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from modelmill.observe.concurrency import Concurrency
from modelmill.observe.logs import AccessLog
from modelmill.observe.metrics import Metrics
from modelmill.serve.batcher import Call
from modelmill.serve.errors import Refusal
from modelmill.serve.grpc.status import CANCELLED, TOO_LATE, Refused, refused
from modelmill.serve.http2.stream import Pieces
from modelmill.serve.inference import Inference
from modelmill.serve.options import Options
from modelmill.serve.rows import Rows

CLOCKS_SECONDS = 0.02
"""A client that gives up so short before its deadline has not gone away: its clock began earlier."""
Message = bytes | bytearray


@dataclass(slots=True, kw_only=True)
class Question:
    """A decoded request for the model, and how its answer is written."""

    rows: Rows
    options: Options
    encode: Callable[[Rows], Pieces]


Endpoint = Callable[[Message, float | None], Pieces | Question]
"""Takes a message, and the seconds that the client still waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    path: str
    endpoint: Endpoint
    open: bool = False
    """Needs no API key: load balancers ask it."""
    protocol: str = "other"
    """For metrics; `grpc` is inference."""


class Accounts:
    """What all exchanges share: the model, and where requests are counted."""

    def __init__(self, *, inference: Inference, concurrency: Concurrency, metrics: Metrics) -> None:
        self.inference = inference
        self.concurrency = concurrency
        self._metrics = metrics
        self._access = AccessLog()

    def count(self, method: Method, outcome: Pieces | Refused, *, began: float, received: int) -> None:
        seconds = time.perf_counter() - began
        if isinstance(outcome, Refused):
            code, status, sent = outcome.status.name, outcome.http_status, 0
        else:
            code, status, sent = "OK", 200, sum(map(len, outcome))
        self._metrics.answered(method.protocol, code, seconds, received, sent)
        if outcome is CANCELLED:
            self._metrics.cancelled.inc()
        elif outcome is TOO_LATE:
            self._metrics.expired.inc()
        if self._access.due(status, began):
            self._access.write(method="POST", path=method.path, status=status, seconds=seconds, received=received, sent=sent)


class Exchange(ABC):
    __slots__ = ("_accounts", "_began", "_call", "_deadline", "_encode", "_method", "_received")

    def __init__(self, accounts: Accounts, method: Method) -> None:
        self._accounts = accounts
        self._method = method
        self._call: Call | None = None

    @abstractmethod
    def answered(self, outcome: Pieces | Refused) -> None:
        """Called once when it has run, at once or later, unless it is cancelled first."""

    def run(self, message: Message, *, remaining: float | None) -> None:
        self._began = time.perf_counter()
        self._received = len(message)
        self._deadline = None if remaining is None else self._began + remaining
        try:
            answer = self._method.endpoint(message, remaining)
            if isinstance(answer, Question):
                self._encode = answer.encode
                self._call = self._accounts.inference.submit(answer.rows, options=answer.options, done=self._done)
                # Not before: what is refused at once is no load.
                self._accounts.concurrency.enter()
                return
        except Exception as error:
            self._end(refused(error))
        else:
            self._end(answer)

    def cancel(self) -> None:
        """Nothing happens when it has been answered."""
        if self._call is None:
            return
        call, self._call = self._call, None
        self._accounts.concurrency.leave()
        call.cancel()
        late = self._deadline is not None and time.perf_counter() > self._deadline - CLOCKS_SECONDS
        outcome = TOO_LATE if late else CANCELLED
        self._accounts.count(self._method, outcome, began=self._began, received=self._received)

    def _done(self, outcome: Rows | Refusal) -> None:
        self._call = None
        self._accounts.concurrency.leave()
        try:
            answer = refused(outcome) if isinstance(outcome, Refusal) else self._encode(outcome)
        except Exception as error:
            answer = refused(error)
        self._end(answer)

    def _end(self, answer: Pieces | Refused) -> None:
        self._accounts.count(self._method, answer, began=self._began, received=self._received)
        self.answered(answer)
