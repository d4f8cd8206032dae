"""What the operator measures of itself, for Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector

_PREFIX = "modelmill_operator"


class Metrics:
    """All metrics of one operator, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.reconciles = self._counter("reconciles", "Resources looked at, by kind and how that ended.", "kind", "result")
        self.plan_seconds = Histogram(
            f"{_PREFIX}_plan_seconds",
            "Time that a planner took.",
            ["kind"],
            registry=self.registry,
            buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25),
        )
        self.writes = self._counter("writes", "Write requests to the API server.", "verb", "kind", "result")
        self.write_wait_seconds = self._counter("write_wait_seconds", "Time that writes waited for the write budget.")
        self.sweep_repairs = self._counter("sweep_repairs", "Objects that a sweep found and no watch had told of.", "kind")
        self.watch_events = self._counter("watch_events", "Events that the watches brought.", "kind")
        self.watch_restarts = self._counter("watch_restarts", "Times that watching ended and was begun anew.")
        self.reports = self._counter("reports", "Reports of launchers, by how they were answered.", "result")
        self.scaling_decisions = self._counter(
            "scaling_decisions", "Decisions of the autoscaler that changed something.", "reason"
        )
        self.events_dropped = self._counter("events_dropped", "Kubernetes Events that were not written, to spare the API server.")

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A gauge that is read when Prometheus asks."""
        Gauge(f"{_PREFIX}_{name}", text, registry=self.registry).set_function(read)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{_PREFIX}_{name}", text, list(labels), registry=self.registry)
