"""Counters and histograms with one writer, the event loop: an addition each, and no lock.

prometheus_client's own take a lock and 1-3 us for each write, which is more than the rest of what a small model's
request costs in accounting. It still collects, checks and writes out what is counted here.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.utils import floatToGoString


class Count:
    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        self.value += amount


class Distribution:
    """How many observations were at most as large as each bound, and their sum."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self._bounds, value)] += times
        self.sum += value * times

    def add(self, counts: Iterable[int], total: float) -> None:
        """Many observations: how many in each bucket, and their sum."""
        for bucket, count in enumerate(counts):
            if count:
                self.counts[bucket] += count
        self.sum += total

    def cumulative(self) -> Iterator[tuple[str, float]]:
        names = (*map(floatToGoString, self._bounds), "+Inf")
        return zip(names, accumulate(self.counts), strict=True)


class Counter(Collector):
    """`counter.labels("v2", "200").inc()`; a counter without labels is counted itself."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...], *, registry: CollectorRegistry) -> None:
        self._described = name, text
        self._labels = labels
        self._children: dict[tuple[str, ...], Count] = {} if labels else {(): Count()}
        registry.register(self)

    def labels(self, *values: str) -> Count:
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = Count()
        return child

    def inc(self, amount: float = 1) -> None:
        self._children[()].value += amount

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(*self._described, labels=self._labels)
        for values, child in tuple(self._children.items()):
            family.add_metric(values, child.value)
        yield family


class Histogram(Collector):
    def __init__(
        self, name: str, text: str, bounds: tuple[float, ...], labels: tuple[str, ...], *, registry: CollectorRegistry
    ) -> None:
        self._described = name, text
        self._bounds = bounds
        self._labels = labels
        self._children: dict[tuple[str, ...], Distribution] = {} if labels else {(): Distribution(bounds)}
        registry.register(self)

    def labels(self, *values: str) -> Distribution:
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = Distribution(self._bounds)
        return child

    def observe(self, value: float) -> None:
        self._children[()].observe(value)

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(*self._described, labels=self._labels)
        for values, child in tuple(self._children.items()):
            family.add_metric(values, list(child.cumulative()), child.sum)
        yield family
