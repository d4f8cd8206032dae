"""Records a CUDA graph for each bucket, and keeps those that answer like the model.

All of it happens before the pod is ready, and within a limit of time: recording takes several runs, which no request should wait
for, and what other threads do at the same time could spoil it. What has no graph runs without one.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from modelmill.serve.gpu.buckets import Bucket
from modelmill.serve.gpu.lane import Lane, Replay
from modelmill.serve.runner import out_of_memory

log = logging.getLogger(__name__)
RUNS_BEFORE = 2
"""So that libraries have chosen their kernels and their memory when a run is recorded."""
MAX_REASON_CHARACTERS = 300
READY, RAISED, DIFFERS, MEMORY, LATE = "ready", "raised", "differs", "memory", "late"
"""What became of a bucket: it has a graph; recording it failed; its graph answers otherwise; there was no memory, or no time."""
Forward = Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    inputs: list[torch.Tensor]
    """On the device, as outputs: the replay reads these and writes those."""
    outputs: list[torch.Tensor]
    replay: Replay


def recorded(inputs: Sequence[torch.Tensor], *, forward: Forward, lane: Lane) -> Graph:
    """For inputs of these shapes, on the host or the device; the graph has its own. Only in `lane.current()`."""
    fixed = [tensor.to(lane.device, copy=True) for tensor in inputs]
    for _ in range(RUNS_BEFORE):
        forward(fixed)
    replay, outputs = lane.record(lambda: forward(fixed))
    return Graph(inputs=fixed, outputs=outputs, replay=replay)


class Graphs:
    def __init__(self, lane: Lane, forward: Forward) -> None:
        self._lane = lane
        self._forward = forward
        self._ready: dict[Bucket, Graph] = {}
        self._refused: Counter[str] = Counter()

    def get(self, bucket: Bucket | None) -> Graph | None:
        return self._ready.get(bucket) if bucket else None

    @property
    def states(self) -> dict[str, int]:
        """How many buckets became what."""
        return {READY: len(self._ready), **self._refused}

    @property
    def buckets(self) -> list[Bucket]:
        return list(self._ready)

    def record(
        self,
        buckets: Sequence[Bucket],
        *,
        example: Callable[[Bucket], Sequence[torch.Tensor]],
        objection: Callable[[Bucket, Graph], str | None],
        seconds: float,
    ) -> None:
        """`example`: inputs of the bucket's shape; `objection`: what is wrong with its graph's answers. Never raises."""
        began = time.perf_counter()
        for number, bucket in enumerate(buckets):
            late = time.perf_counter() - began >= seconds
            state = LATE if late else self._attempt(bucket, example, objection)
            if state == READY:
                continue
            # A module that synchronizes with the host does it for every shape: each attempt would fail alike.
            hopeless = state in (LATE, MEMORY) or self._refused.total() >= len(self._ready)
            self._refused[state] += len(buckets) - number if hopeless else 1
            if hopeless:
                break
        told = ", ".join(f"{count} {state}" for state, count in self.states.items())
        log.info("CUDA graphs for %d shapes of batches: %s; took %.3f s", len(buckets), told, time.perf_counter() - began)

    def _attempt(
        self,
        bucket: Bucket,
        example: Callable[[Bucket], Sequence[torch.Tensor]],
        objection: Callable[[Bucket, Graph], str | None],
    ) -> str:
        graph = None
        try:
            with self._lane.current():
                graph = recorded(example(bucket), forward=self._forward, lane=self._lane)
                reason, state = objection(bucket, graph), DIFFERS
        except Exception as error:
            first = _first(error)
            state = MEMORY if out_of_memory(first) else RAISED
            reason = f"{type(first).__name__}: {first}"
        if reason is None:
            assert graph
            self._ready[bucket] = graph
            return READY
        log.warning("no CUDA graph for %s: %s", bucket, reason[:MAX_REASON_CHARACTERS])
        # Outside the handler: the exception's traceback keeps the failed run's tensors.
        del graph
        if state == MEMORY:
            self._let_go()
        if state != DIFFERS:
            self._lane.renew()
        return state

    def _let_go(self) -> None:
        """All of them: the pool they share is given back when none is left, and other runs need that memory more."""
        self._refused[MEMORY] += len(self._ready)
        self._ready.clear()


def _first(error: Exception) -> Exception:
    """What a recording was broken by; that it is broken is raised on top of it."""
    while isinstance(error.__context__, Exception):
        error = error.__context__
    return error
