"""The batch former: which waiting rows run together, and when. Pure: it is told the time and does no I/O.

The rules. Rows are counted, not requests. Only items with equal keys (whatever cannot share an execution differs in
it) share a batch. Within a key the order is priority, then first come, first served. The former never waits: whoever
asks for a batch has an idle executor, so the first item's group goes at once; while the executor is busy, rows gather
by themselves. A full batch of another key may overtake a partial one until the partial one's oldest row has waited
`max_latency_seconds`, never one of a higher priority. Rows of different lengths that are padded to the longest share a
batch with those of similar length (`modelmill.serve.similar`); the first item is always in it, so nobody starves.
Items that shared a failed batch come back through `retry` and run alone, before everything else.
"""

from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from modelmill.serve.options import DEFAULT_PRIORITY
from modelmill.serve.similar import cheapest


class Item:
    """Rows that run together; whoever uses the former adds what it needs to know of them."""

    __slots__ = ("arrived", "key", "length", "priority", "requests", "rows")

    def __init__(
        self,
        key: Hashable,
        rows: int,
        arrived: float,
        length: int = 0,
        priority: int = DEFAULT_PRIORITY,
        requests: int = 1,
    ) -> None:
        """`length`: elements of one row along the dimensions that may be padded; 0 where nothing may."""
        self.key = key
        self.rows = rows
        self.arrived = arrived
        self.length = length
        self.priority = priority
        self.requests = requests
        """How many these rows are of."""


T = TypeVar("T", bound=Item)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    max_rows: int
    max_latency_seconds: float
    queue_limit: int
    """Requests that may wait; of one with more rows than fit into a batch, each part counts."""
    max_items: int = 0
    """Items in one batch, 0 = as many as fit."""
    max_elements: int = 0
    """Rows times padded length in one batch of more than one item, 0 = no limit."""
    overhead_elements: int = 32
    """What starting an execution costs, in the same measure."""
    window: int = 48
    """Among how many of the first items those of similar length are looked for."""


@dataclass(slots=True)
class _Group(Generic[T]):
    items: dict[T, None]
    """Insertion-ordered, with removal from the middle at no cost."""
    rows: int = 0
    prioritized: int = 0
    """How many items do not have the default priority."""

    def ordered(self) -> Iterable[T]:
        # Sorting is stable: equals stay in the order of arrival.
        return sorted(self.items, key=lambda item: item.priority) if self.prioritized else self.items

    def first(self) -> T:
        return min(self.items, key=lambda item: item.priority) if self.prioritized else next(iter(self.items))

    def add(self, item: T) -> None:
        self.items[item] = None
        self.rows += item.rows
        self.prioritized += item.priority != DEFAULT_PRIORITY

    def drop(self, item: T) -> None:
        del self.items[item]
        self.rows -= item.rows
        self.prioritized -= item.priority != DEFAULT_PRIORITY


class BatchFormer(Generic[T]):
    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._groups: dict[Hashable, _Group[T]] = {}
        self._alone: deque[T] = deque()
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def offer(self, items: Sequence[T]) -> bool:
        """Queues the parts of one request, all or none; False when too many wait already."""
        if self._waiting >= self.policy.queue_limit:
            return False
        for item in items:
            if item.rows <= 0:
                raise ValueError(f"an item has {item.rows} rows, at least 1 is needed")
            group = self._groups.get(item.key)
            if group is None:
                group = self._groups[item.key] = _Group({})
            group.add(item)
            self._waiting += item.requests
        return True

    def retry(self, items: Sequence[T]) -> None:
        """Puts back what shared a failed batch: each runs alone, next."""
        self._alone.extend(items)
        self._waiting += sum([item.requests for item in items])

    def take(self, now: float) -> tuple[T, ...]:
        """The next batch for an executor that is idle now; empty when nothing waits."""
        if self._alone:
            alone = self._alone.popleft()
            self._waiting -= alone.requests
            return (alone,)
        if not self._groups:
            return ()
        group = self._choose(now)
        batch = self._similar(group) if group.first().length else self._prefix(group.ordered())
        self._waiting -= sum([item.requests for item in batch])
        if len(batch) == len(group.items):
            del self._groups[batch[0].key]
        else:
            for item in batch:
                group.drop(item)
        return tuple(batch)

    def _prefix(self, items: Iterable[T]) -> Sequence[T]:
        """As many of the first as fit; the first one always does."""
        batch: list[T] = []
        rows = 0
        for item in items:
            rows += item.rows
            if batch and (rows > self.policy.max_rows or len(batch) == self.policy.max_items):
                break
            batch.append(item)
        return batch

    def _similar(self, group: _Group[T]) -> Sequence[T]:
        policy = self.policy
        window = list(islice(group.ordered(), policy.window))
        chosen = cheapest(
            [(item.rows, item.length) for item in window],
            max_rows=policy.max_rows,
            max_items=policy.max_items or len(window),
            max_elements=policy.max_elements,
            overhead=policy.overhead_elements,
        )
        return [window[i] for i in chosen]

    def _choose(self, now: float) -> _Group[T]:
        if len(self._groups) == 1:
            return next(iter(self._groups.values()))
        firsts = {group.first(): group for group in self._groups.values()}
        head = min(firsts, key=lambda item: (item.priority, item.arrived))
        if now - head.arrived >= self.policy.max_latency_seconds:
            return firsts[head]
        full = [i for i, g in firsts.items() if i.priority == head.priority and g.rows >= self.policy.max_rows]
        return firsts[min(full, key=lambda item: item.arrived, default=head)]

    def remove(self, item: T) -> bool:
        """Forgets an item whose client went away or whose time is up; False when it is not waiting."""
        group = self._groups.get(item.key)
        if group and item in group.items:
            group.drop(item)
            if not group.items:
                del self._groups[item.key]
        elif item in self._alone:
            self._alone.remove(item)
        else:
            return False
        self._waiting -= item.requests
        return True
