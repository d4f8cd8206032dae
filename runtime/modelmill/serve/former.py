"""The batch former: which waiting rows run together, and when. Pure: it is told the time and does no I/O.

The rules. Rows are counted, not requests. Only items with equal keys (names, datatypes, shapes) share a batch. Within
a key the order is first come, first served. The former never waits: whoever asks for a batch has an idle executor, so
the oldest item's group goes at once; while the executor is busy, rows gather by themselves. A full batch of another
key may overtake a partial one until the partial one's oldest row has waited `max_latency_seconds`. Items that shared a
failed batch come back through `retry` and run alone, before everything else.
"""

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True, kw_only=True, eq=False)
class Item(Generic[T]):
    key: Hashable
    rows: int
    arrived: float
    deadline: float
    payload: T


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    max_rows: int
    max_latency_seconds: float
    queue_limit: int
    """Items that may wait."""
    max_items: int = 0
    """Items in one batch, 0 = as many as fit."""


@dataclass(slots=True)
class _Group(Generic[T]):
    items: dict[Item[T], None]
    """Insertion-ordered, with removal from the middle at no cost."""
    rows: int = 0

    @property
    def oldest(self) -> Item[T]:
        return next(iter(self.items))


class BatchFormer(Generic[T]):
    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._groups: dict[Hashable, _Group[T]] = {}
        self._alone: deque[Item[T]] = deque()
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def offer(self, items: Sequence[Item[T]]) -> bool:
        """Queues the parts of one request, all or none; False when too many wait already."""
        if self._waiting >= self.policy.queue_limit:
            return False
        for item in items:
            if not 0 < item.rows <= self.policy.max_rows:
                raise ValueError(f"an item has {item.rows} rows, a batch has 1 to {self.policy.max_rows}")
            group = self._groups.setdefault(item.key, _Group({}))
            group.items[item] = None
            group.rows += item.rows
        self._waiting += len(items)
        return True

    def retry(self, items: Sequence[Item[T]]) -> None:
        """Puts back what shared a failed batch: each runs alone, next."""
        self._alone.extend(items)
        self._waiting += len(items)

    def take(self, now: float) -> tuple[Item[T], ...]:
        """The next batch for an executor that is idle now; empty when nothing waits."""
        if self._alone:
            self._waiting -= 1
            return (self._alone.popleft(),)
        if not self._groups:
            return ()
        batch: list[Item[T]] = []
        rows = 0
        for item in self._choose(now).items:
            rows += item.rows
            if rows > self.policy.max_rows or len(batch) == (self.policy.max_items or len(batch) + 1):
                break
            batch.append(item)
        for item in batch:
            self.remove(item)
        return tuple(batch)

    def _choose(self, now: float) -> _Group[T]:
        oldest = min(self._groups.values(), key=lambda group: group.oldest.arrived)
        if now - oldest.oldest.arrived >= self.policy.max_latency_seconds or len(self._groups) == 1:
            return oldest
        full = [group for group in self._groups.values() if group.rows >= self.policy.max_rows]
        return min(full, key=lambda group: group.oldest.arrived, default=oldest)

    def remove(self, item: Item[T]) -> bool:
        """Forgets an item whose client went away or whose time is up; False when it is not waiting."""
        group = self._groups.get(item.key)
        if group and item in group.items:
            del group.items[item]
            group.rows -= item.rows
            if not group.items:
                del self._groups[item.key]
        elif item in self._alone:
            self._alone.remove(item)
        else:
            return False
        self._waiting -= 1
        return True

    def expire(self, now: float) -> tuple[Item[T], ...]:
        """Removes and returns what can no longer be answered in time, before a device sees it."""
        waiting = [*self._alone, *(item for group in self._groups.values() for item in group.items)]
        late = tuple(item for item in waiting if item.deadline <= now)
        for item in late:
            self.remove(item)
        return late
