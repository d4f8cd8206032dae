"""The batcher: the thin shell around the batch former. Requests wait here for their rows' results.

A request with more rows than a batch is cut into parts and joined again. When a batch fails, its members are run
again one by one, so that only the culprit's client sees an error. A request whose client went away (its call is
cancelled) or whose time is up leaves the queue before the executor sees it.

A batch starts in the loop's next turn, not at once, so that requests that arrive in the same turn go together. It runs
in a thread of the executor, of which there may be several, or in the loop itself where it is that short
(`modelmill.serve.placement`).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from modelmill.failures import BadInput
from modelmill.observe.metrics import Metrics
from modelmill.serve.errors import BadRequest, Expired, ModelFailed, Overloaded, Refusal
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


class Part(Item):
    """Rows of one request that fit into a batch, and what the model makes of them."""

    __slots__ = ("call", "given", "outputs")

    def __init__(self, call: "Call", given: Rows, now: float, priority: int, requests: int) -> None:
        super().__init__(given.key, given.count, now, given.length, priority, requests)
        self.call = call
        self.given = given
        self.outputs: Rows | None = None


class Call:
    """One request under way, or several that came together: its parts, and whom to tell."""

    __slots__ = ("_batcher", "_done", "_left", "deadline", "parts", "timeout_seconds", "timer")

    def __init__(
        self, batcher: "Batcher", cut: Sequence[Rows], *, now: float, options: Options, done: Done, requests: int = 1
    ) -> None:
        self._batcher = batcher
        self._done: Done | None = done
        self._left = len(cut)
        self.timeout_seconds = options.timeout_seconds or batcher.timeout_seconds
        self.deadline = now + self.timeout_seconds
        self.timer: asyncio.TimerHandle | None = None
        self.parts: Sequence[Part] = [Part(self, rows, now, options.priority, requests) for rows in cut]

    @property
    def open(self) -> bool:
        return self._done is not None

    @property
    def waiting(self) -> Sequence[Part]:
        """Parts that may still be in the queue."""
        return self.parts if self._left else ()

    def deliver(self, part: Part, outputs: Rows) -> None:
        part.outputs = outputs
        self._left -= 1
        # Whoever went away, or gave up, while the batch ran has forgotten its parts.
        if not self._left and self._done:
            self.end(outputs if len(self.parts) == 1 else stacked([part.outputs for part in self.parts if part.outputs]))

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


Batch = tuple[Part, ...]


@dataclass(slots=True)
class Ran:
    """What became of a batch, and how long that took: by the clock and by its thread's own processor time."""

    outcome: Outcome[list[Rows]]
    seconds: float
    processor_seconds: float


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
        instances: int = 1,
    ) -> None:
        """`instances`: how many batches `run` may be called with at once, each in a thread of the executor."""
        self.timeout_seconds = timeout_seconds
        self._run = run
        self._executor = executor
        self._former: BatchFormer[Part] = BatchFormer(policy)
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._placement = placement
        self._queued = metrics.queue_seconds.labels().observe
        self._computed = metrics.compute_seconds.labels().observe
        self._batched = metrics.batch_rows.labels().observe
        self._idle = instances
        self.gather: Callable[[], None] | None = None
        """Told that a batch is about to start: who holds rows back for the loop's turn submits them now."""
        self._calls: dict[Call, None] = {}
        """Those with the service's own timeout, and so in the order of their deadlines."""
        self._turn: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        metrics.queue_depth.set_function(lambda: len(self._former))

    @property
    def policy(self) -> Policy:
        return self._former.policy

    def room(self) -> int:
        """How many more requests may wait for a batch that starts within turns of the loop; 0 where that is not to be.

        Whoever asks and then holds some back is asked for them by `gather` in the loop's next turn.
        """
        if not self._idle or not self._placement.short:
            return 0
        self._wake()
        return self._former.policy.queue_limit - len(self._former)

    def submit(self, rows: Rows, *, options: Options = DEFAULT, done: Done, requests: int = 1) -> Call:
        """`done` gets the model's outputs for these rows, in their order, or why there are none: once, in a later turn.

        `requests`: of how many they are, where several came together.
        """
        cut = rows.split(self._former.policy.max_rows)
        call = Call(self, cut, now=time.monotonic(), options=options, done=done, requests=requests)
        if not self._former.offer(call.parts):
            self._metrics.shed.inc(requests)
            raise Overloaded(f"{len(self._former)} requests wait already, as many as may: try again later")
        if options.timeout_seconds is None:
            self._calls[call] = None
            if self._timer is None:
                self._timer = self._loop.call_later(self.timeout_seconds, self._expire)
        else:
            call.timer = self._loop.call_later(options.timeout_seconds, self._expired, call)
        self._wake()
        return call

    def forget(self, call: Call) -> None:
        """The call has ended: nothing of it waits any more."""
        self._calls.pop(call, None)
        if call.timer:
            call.timer.cancel()
        for part in call.waiting:
            self._former.remove(part)
        # They know their call: it would take a garbage collection to be rid of both.
        call.parts = ()

    def _next(self) -> None:
        if self.gather:
            self.gather()
        self._turn = None
        now = time.monotonic()
        batch = self._take(now) if self._idle else ()
        if not batch:
            return
        self._idle -= 1
        for part in batch:
            self._queued(now - part.arrived, part.requests)
        given = [part.given for part in batch]
        if self._placement.in_loop():
            began = time.perf_counter()
            outcome = self._executor.run(partial(self._run, given))
            took = time.perf_counter() - began
            ran = Ran(outcome, took, took)
            self._count(batch, ran)
            self._deliver(batch, ran)
        else:
            self._executor.start(partial(self._timed, given), done=partial(self._done, batch))
        # In the next turn, so that the loop reads and writes in between.
        if len(self._former):
            self._wake()

    def _wake(self) -> None:
        if self._idle and self._turn is None:
            self._turn = self._loop.call_soon(self._next)

    def _take(self, now: float) -> Batch:
        """The next batch without what is too late: a long execution may have kept the timers from telling them."""
        batch = self._former.take(now)
        late = [part for part in batch if part.call.deadline <= now]
        if not late:
            return batch
        for part in late:
            self._expired(part.call)
        return tuple(part for part in batch if part not in late) or self._take(now)

    def _timed(self, many: list[Rows]) -> Ran:
        began, used = time.perf_counter(), time.thread_time()
        try:
            outcome: Outcome[list[Rows]] = self._run(many), None
        except Exception as error:
            outcome = None, error
        return Ran(outcome, time.perf_counter() - began, time.thread_time() - used)

    def _done(self, batch: Batch, ended: Outcome[Ran]) -> None:
        ran, _ = ended
        assert ran
        self._count(batch, ran)
        if ran.outcome[1]:
            self._deliver(batch, ran)
            self._next()
        else:
            # At once: the answers are written while the next batch runs.
            self._next()
            self._deliver(batch, ran)

    def _count(self, batch: Batch, ran: Ran) -> None:
        """A batch has run: there is room for another."""
        self._idle += 1
        self._placement.ran(ran.seconds, processor_seconds=ran.processor_seconds)
        self._metrics.executions.inc()
        self._computed(ran.seconds)
        self._batched(sum([part.rows for part in batch]))
        self._obey_memory()

    def _deliver(self, batch: Batch, ran: Ran) -> None:
        outputs, failure = ran.outcome
        if failure:
            self._failed(batch, failure)
            return
        assert outputs is not None
        self._metrics.inferences.inc(sum([part.rows for part in batch]))
        for part, rows in zip(batch, outputs, strict=True):
            part.call.deliver(part, rows)

    def _obey_memory(self) -> None:
        policy, rows, elements = self._former.policy, self._run.most_rows, self._run.most_elements
        if rows and rows < policy.max_rows:
            self._former.policy = replace(policy, max_rows=rows)
        if elements and not 0 < policy.max_elements <= elements:
            self._former.policy = replace(policy, max_elements=elements)

    def _failed(self, batch: Batch, failure: Exception) -> None:
        clients = isinstance(failure, BadInput)
        if not clients:
            self._metrics.failed_executions.inc()
        if len(batch) > 1:
            if not clients:
                log.warning("a batch of %d requests failed; each is run alone", len(batch), exc_info=failure)
            self._former.retry([part for part in batch if part.call.open])
            return
        if clients:
            batch[0].call.end(BadRequest(str(failure)[:MAX_ERROR_CHARACTERS]))
            return
        log.error("the model failed on %d rows", batch[0].rows, exc_info=failure)
        text = f"the model failed on this input: {type(failure).__name__}: {failure}"[:MAX_ERROR_CHARACTERS]
        batch[0].call.end(ModelFailed(text))

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
