"""The batcher: the thin shell around the batch former. Requests wait here for their rows' results.

A request with more rows than a batch is cut into parts and joined again. When a batch fails, its members are run
again one by one, so that only the culprit's client sees an error. A request whose client went away (its task is
cancelled) or whose time is up leaves the queue before the executor sees it.

The executor starts in the loop's next turn, not at once, so that requests that arrive in the same turn go together.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

from modelmill.observe.metrics import Metrics
from modelmill.serve.errors import Expired, ModelFailed, Overloaded, Refusal
from modelmill.serve.executor import Executor
from modelmill.serve.former import BatchFormer, Item, Policy
from modelmill.serve.rows import Rows, join

log = logging.getLogger(__name__)
MAX_ERROR_CHARACTERS = 500


class _Call:
    """One request under way: its parts, and the future that its client's task awaits."""

    def __init__(self, parts: Sequence[Rows], *, now: float, deadline: float) -> None:
        self.future: asyncio.Future[Rows] = asyncio.get_running_loop().create_future()
        self.deadline = deadline
        self._results: list[Rows | None] = [None] * len(parts)
        self.items = tuple(
            Item(key=part.key, rows=part.count, arrived=now, deadline=deadline, payload=Part(self, i, part))
            for i, part in enumerate(parts)
        )

    def deliver(self, index: int, rows: Rows) -> None:
        self._results[index] = rows
        finished = [result for result in self._results if result is not None]
        if len(finished) == len(self._results) and not self.future.done():
            self.future.set_result(join(finished))

    def fail(self, refusal: Refusal) -> None:
        if not self.future.done():
            self.future.set_exception(refusal)


class Part:
    def __init__(self, call: _Call, index: int, rows: Rows) -> None:
        self.call = call
        self.index = index
        self.rows = rows


Batch = tuple[Item[Part], ...]


class Batcher:
    def __init__(
        self,
        model: Callable[[Rows], Rows],
        *,
        executor: Executor,
        policy: Policy,
        timeout_seconds: float,
        metrics: Metrics,
    ) -> None:
        self._model = model
        self._executor = executor
        self._former: BatchFormer[Part] = BatchFormer(policy)
        self._timeout = timeout_seconds
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._calls: dict[_Call, None] = {}
        """In order of their deadlines, because all have the same timeout."""
        self._busy = False
        self._turn: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        metrics.queue_depth.set_function(lambda: len(self._former))

    async def run(self, rows: Rows) -> Rows:
        """The model's outputs for these rows, in their order."""
        now = time.monotonic()
        call = _Call(rows.split(self._former.policy.max_rows), now=now, deadline=now + self._timeout)
        if not self._former.offer(call.items):
            self._metrics.shed.inc()
            raise Overloaded(f"{len(self._former)} requests wait already, as many as may: try again later")
        self._calls[call] = None
        self._wake()
        try:
            return await call.future
        finally:
            del self._calls[call]
            for item in call.items:
                self._former.remove(item)

    def _wake(self) -> None:
        if not self._busy and self._turn is None:
            self._turn = self._loop.call_soon(self._next)
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout, self._expire)

    def _next(self) -> None:
        self._turn = None
        now = time.monotonic()
        batch = self._former.take(now)
        if not batch:
            return
        self._busy = True
        for item in batch:
            self._metrics.queue_seconds.observe(now - item.arrived)
        rows = [item.payload.rows for item in batch]
        self._executor.start(lambda: self._model(join(rows)), done=partial(self._done, batch, now))

    def _done(self, batch: Batch, began: float, outputs: Rows | None, failure: Exception | None) -> None:
        self._busy = False
        count = sum(item.rows for item in batch)
        self._metrics.executions.inc()
        self._metrics.compute_seconds.observe(time.monotonic() - began)
        self._metrics.batch_rows.observe(count)
        if outputs is not None:
            self._metrics.inferences.inc(count)
            self._deliver(batch, outputs)
        elif failure is not None:
            self._failed(batch, failure)
        if len(self._former):
            # At once, not in the next turn: whatever is ready to be read is read while this batch runs.
            self._next()

    def _deliver(self, batch: Batch, outputs: Rows) -> None:
        start = 0
        for item in batch:
            stop = start + item.rows
            part = item.payload
            part.call.deliver(part.index, outputs if len(batch) == 1 else outputs.part(start, stop))
            start = stop

    def _failed(self, batch: Batch, failure: Exception) -> None:
        self._metrics.failed_executions.inc()
        wanted = [item for item in batch if not item.payload.call.future.done()]
        if len(batch) > 1:
            log.warning("a batch of %d requests failed; each is run alone", len(batch), exc_info=failure)
            self._former.retry(wanted)
            return
        log.error("the model failed on %d rows", batch[0].rows, exc_info=failure)
        text = f"the model failed on this input: {type(failure).__name__}: {failure}"[:MAX_ERROR_CHARACTERS]
        for item in wanted:
            item.payload.call.fail(ModelFailed(text))

    def _expire(self) -> None:
        self._timer = None
        now = time.monotonic()
        self._former.expire(now)
        for call in tuple(self._calls):
            if call.deadline > now:
                self._timer = self._loop.call_later(call.deadline - now, self._expire)
                break
            if not call.future.done():
                self._metrics.expired.inc()
                call.fail(Expired(f"no answer within {self._timeout:g} seconds"))
