"""The batcher: the thin shell around the batch former. Requests wait here for their rows' results.

A request with more rows than a batch is cut into parts and joined again. When a batch fails, its members are run
again one by one, so that only the culprit's client sees an error. A request whose client went away (its call is
cancelled) or whose time is up leaves the queue before the executor sees it.

A batch starts in the loop's next turn, not at once, so that requests that arrive in the same turn go together. It runs
in the executor's thread, or in the loop itself where it is that short (`modelmill.serve.placement`).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from modelmill.observe.metrics import Metrics
from modelmill.serve.errors import Expired, ModelFailed, Overloaded, Refusal
from modelmill.serve.executor import Executor, Outcome
from modelmill.serve.former import BatchFormer, Item, Policy
from modelmill.serve.options import DEFAULT, Options
from modelmill.serve.placement import Placement
from modelmill.serve.rows import Rows, stacked

if TYPE_CHECKING:
    from modelmill.serve.runner import Runner

log = logging.getLogger(__name__)
MAX_ERROR_CHARACTERS = 500
Done = Callable[[Rows | Refusal], None]


class Call:
    """One request under way: its parts, and whom to tell."""

    __slots__ = ("_batcher", "_done", "_left", "_results", "deadline", "items", "timeout_seconds", "timer")

    def __init__(self, batcher: "Batcher", parts: Sequence[Rows], *, now: float, options: Options, done: Done) -> None:
        self._batcher = batcher
        self._done: Done | None = done
        self._results: list[Rows | None] = [None] * len(parts)
        self._left = len(parts)
        self.timeout_seconds = options.timeout_seconds or batcher.timeout_seconds
        self.deadline = now + self.timeout_seconds
        self.timer: asyncio.TimerHandle | None = None
        priority = options.priority
        self.items = [Item(part.key, part.count, now, (self, i, part), part.length, priority) for i, part in enumerate(parts)]

    @property
    def open(self) -> bool:
        return self._done is not None

    def deliver(self, index: int, rows: Rows) -> None:
        self._results[index] = rows
        self._left -= 1
        if not self._left:
            self.end(stacked([result for result in self._results if result is not None]))

    def end(self, outcome: Rows | Refusal) -> None:
        done, self._done = self._done, None
        if done:
            self._batcher.forget(self)
            done(outcome)

    def cancel(self) -> None:
        """Its client went away; nothing happens when it was answered already."""
        if self._done:
            self._done = None
            self._batcher.forget(self)


Part = tuple[Call, int, Rows]
Batch = tuple[Item[Part], ...]


class Batcher:
    def __init__(
        self,
        run: "Runner",
        *,
        executor: Executor,
        policy: Policy,
        timeout_seconds: float,
        metrics: Metrics,
        placement: Placement,
    ) -> None:
        self.timeout_seconds = timeout_seconds
        self._run = run
        self._executor = executor
        self._former: BatchFormer[Part] = BatchFormer(policy)
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._placement = placement
        self._took = 0.0
        self._used = 0.0
        self._calls: dict[Call, None] = {}
        """Those with the service's own timeout, and so in the order of their deadlines."""
        self._busy = False
        self._turn: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        metrics.queue_depth.set_function(lambda: len(self._former))

    def submit(self, rows: Rows, *, options: Options = DEFAULT, done: Done) -> Call:
        """`done` gets the model's outputs for these rows, in their order, or why there are none: once, in a later turn."""
        parts = [rows] if rows.count <= self._former.policy.max_rows else rows.split(self._former.policy.max_rows)
        call = Call(self, parts, now=time.monotonic(), options=options, done=done)
        if not self._former.offer(call.items):
            self._metrics.shed.inc()
            raise Overloaded(f"{len(self._former)} requests wait already, as many as may: try again later")
        if options.timeout_seconds is None:
            self._calls[call] = None
            if self._timer is None:
                self._timer = self._loop.call_later(self.timeout_seconds, self._expire)
        else:
            call.timer = self._loop.call_later(options.timeout_seconds, self._expired, call)
        if not self._busy and self._turn is None:
            self._turn = self._loop.call_soon(self._next)
        return call

    def forget(self, call: Call) -> None:
        """The call has ended: nothing of it waits any more."""
        self._calls.pop(call, None)
        if call.timer:
            call.timer.cancel()
        for item in call.items:
            self._former.remove(item)

    def _next(self) -> None:
        self._turn = None
        now = time.monotonic()
        batch = self._take(now)
        if not batch:
            return
        self._busy = True
        for item in batch:
            self._metrics.queue_seconds.observe(now - item.arrived)
        work = partial(self._timed, [item.payload[2] for item in batch])
        if self._placement.in_loop():
            outcome = self._executor.run(work)
            self._count(batch)
            self._deliver(batch, outcome)
            # In the next turn, so that the loop reads and writes in between.
            if len(self._former) and self._turn is None:
                self._turn = self._loop.call_soon(self._next)
        else:
            self._executor.start(work, done=partial(self._done, batch))

    def _take(self, now: float) -> Batch:
        """The next batch without what is too late: a long execution may have kept the timers from telling them."""
        batch = self._former.take(now)
        late = [item for item in batch if item.payload[0].deadline <= now]
        if not late:
            return batch
        for item in late:
            self._expired(item.payload[0])
        return tuple(item for item in batch if item not in late) or self._take(now)

    def _timed(self, many: list[Rows]) -> list[Rows]:
        began, used = time.perf_counter(), time.thread_time()
        try:
            return self._run(many)
        finally:
            self._took, self._used = time.perf_counter() - began, time.thread_time() - used

    def _done(self, batch: Batch, outcome: Outcome[list[Rows]]) -> None:
        self._count(batch)
        if outcome[1]:
            self._deliver(batch, outcome)
            self._next()
        else:
            # At once: the answers are written while the next batch runs.
            self._next()
            self._deliver(batch, outcome)

    def _count(self, batch: Batch) -> None:
        """A batch has run: the executor is idle."""
        self._busy = False
        self._placement.ran(self._took, processor_seconds=self._used)
        self._metrics.executions.inc()
        self._metrics.compute_seconds.observe(self._took)
        self._metrics.batch_rows.observe(sum(item.rows for item in batch))
        self._obey_memory()

    def _deliver(self, batch: Batch, outcome: Outcome[list[Rows]]) -> None:
        outputs, failure = outcome
        if failure:
            self._failed(batch, failure)
            return
        assert outputs is not None
        for item, rows in zip(batch, outputs, strict=True):
            self._metrics.inferences.inc(item.rows)
            call, index, _ = item.payload
            call.deliver(index, rows)

    def _obey_memory(self) -> None:
        policy, rows, elements = self._former.policy, self._run.most_rows, self._run.most_elements
        if rows and rows < policy.max_rows:
            self._former.policy = replace(policy, max_rows=rows)
        if elements and not 0 < policy.max_elements <= elements:
            self._former.policy = replace(policy, max_elements=elements)

    def _failed(self, batch: Batch, failure: Exception) -> None:
        self._metrics.failed_executions.inc()
        if len(batch) > 1:
            log.warning("a batch of %d requests failed; each is run alone", len(batch), exc_info=failure)
            self._former.retry([item for item in batch if item.payload[0].open])
            return
        log.error("the model failed on %d rows", batch[0].rows, exc_info=failure)
        text = f"the model failed on this input: {type(failure).__name__}: {failure}"[:MAX_ERROR_CHARACTERS]
        batch[0].payload[0].end(ModelFailed(text))

    def _expired(self, call: Call) -> None:
        self._metrics.expired.inc()
        call.end(Expired(f"no answer within {call.timeout_seconds:g} seconds"))

    def _expire(self) -> None:
        self._timer = None
        now = time.monotonic()
        for call in tuple(self._calls):
            if call.deadline > now:
                self._timer = self._loop.call_later(call.deadline - now, self._expire)
                break
            self._expired(call)
