"""The serving pod's Prometheus metrics, in a registry of their own so that tests can hold several.

Counts add up: every request is in `requests_total` once, under the code it was answered with; a client that went away
before its answer counts as code 499 and in `cancelled_total`.
"""

from prometheus_client import CollectorRegistry, Gauge, PlatformCollector, ProcessCollector, generate_latest

from modelmill.observe.resources import Resources
from modelmill.observe.series import Count, Counter, Distribution, Histogram

PREFIX = "modelmill_serve"
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        Resources(PREFIX, registry=self.registry)
        self.requests = self._counter("requests", "Requests by protocol and status (HTTP's, or gRPC's name)", "protocol", "code")
        self.fast_requests = self._counter("fast_requests", "Requests that native code read and answered, counted above too")
        self.request_seconds = self._histogram("request_seconds", "From complete request to answer", SECONDS, "protocol")
        self.inferences = self._counter("inferences", "Rows the model answered")
        self.executions = self._counter("executions", "Batches the model ran")
        self.failed_executions = self._counter("failed_executions", "Batches that raised an exception in the model")
        self.queue_seconds = self._histogram("queue_seconds", "From arrival in the queue to the start of the batch", SECONDS)
        self.compute_seconds = self._histogram("compute_seconds", "One batch in the executor", SECONDS)
        self.batch_rows = self._histogram("batch_rows", "Rows in one batch", ROWS)
        self.in_flight = self._gauge("in_flight_requests", "Inference requests being handled, waiting ones included")
        self.queue_depth = self._gauge("queue_depth", "Requests waiting for the executor")
        self.shed = self._counter("shed", "Requests refused because the queue was full")
        self.cancelled = self._counter("cancelled", "Requests whose client went away before the answer")
        self.expired = self._counter("expired", "Requests not answered within their time")
        self.received_bytes = self._counter("received_bytes", "Bytes of request bodies")
        self.sent_bytes = self._counter("sent_bytes", "Bytes of answer bodies")
        self.phase_seconds = self._gauge("phase_seconds", "How long each phase of the start took", "phase")
        self.ready = self._gauge("ready", "1 while the pod is ready")
        self._received, self._sent = self.received_bytes.labels(), self.sent_bytes.labels()
        self._answered: dict[tuple[str, str | int], tuple[Count, Distribution]] = {}
        self.weights = self._gauge("weights", "Compressed weights by what computes with them", "way")
        self.model_info = self._gauge("model_info", "1, with what is served", "model", "version", "variant", "digest")

    def answered(self, protocol: str, code: str | int, seconds: float, received: int, sent: int) -> None:
        """One request and its answer; sizes in bytes."""
        count, distribution = self._answered.get((protocol, code)) or self._series(protocol, code)
        count.value += 1
        distribution.observe(seconds)
        self._received.value += received
        self._sent.value += sent

    def answered_fast(
        self, protocol: str, code: str | int, counts: tuple[int, ...], seconds: float, received: int, sent: int
    ) -> None:
        """Requests that took the fast path: how many by the buckets of `SECONDS`, and the sums of the rest."""
        count, distribution = self._answered.get((protocol, code)) or self._series(protocol, code)
        count.value += sum(counts)
        distribution.add(counts, seconds)
        self._received.value += received
        self._sent.value += sent
        self.fast_requests.inc(sum(counts))

    def _series(self, protocol: str, code: str | int) -> tuple[Count, Distribution]:
        series = self.requests.labels(protocol, str(code)), self.request_seconds.labels(protocol)
        self._answered[protocol, code] = series
        return series

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"{PREFIX}_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"{PREFIX}_{name}", text, buckets, labels, registry=self.registry)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
