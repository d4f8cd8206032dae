"""The same counts under Triton's names, for dashboards and alerts that were made for it.

With the environment variable MODELMILL_TRITON_METRICS set to 1 they stand beside our own on /metrics. Names and units are
those of Triton's documentation ("Metrics"): counts of requests, of rows and of executions, and microseconds.
"""

from collections.abc import Iterable, Iterator

from prometheus_client.core import Metric, UnknownMetricFamily
from prometheus_client.registry import Collector

from modelmill.observe.metrics import Metrics

ENVIRONMENT = "MODELMILL_TRITON_METRICS"
NOT_INFERENCE = ("none", "other")
"""The protocols under which the metrics count everything else."""
SUCCEEDED = ("200", "OK")
FAILED = ("500", "503", "504", "INTERNAL", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")
"""HTTP's and gRPC's codes of a right request that got no result."""


def requests(metrics: Metrics, codes: tuple[str, ...]) -> int:
    """Requests for the model that were answered with one of these codes."""
    samples = (sample for family in metrics.requests.collect() for sample in family.samples)
    return sum(int(s.value) for s in samples if s.labels["protocol"] not in NOT_INFERENCE and s.labels["code"] in codes)


def request_seconds(metrics: Metrics) -> float:
    """From requests to answers; those that were refused are in it too, because they are not timed apart."""
    samples = (sample for family in metrics.request_seconds.collect() for sample in family.samples)
    return sum(s.value for s in samples if s.name.endswith("_sum") and s.labels["protocol"] not in NOT_INFERENCE)


class TritonNames(Collector):
    def __init__(self, metrics: Metrics, *, model: str, version: str) -> None:
        self._metrics = metrics
        self._labels = {"model": model, "version": version}
        metrics.registry.register(self)

    def collect(self) -> Iterable[Metric]:
        for name, text, value in self._values():
            # Neither counter nor gauge in the text format: a counter's name would end in _total there.
            family = UnknownMetricFamily(f"nv_inference_{name}", text, labels=tuple(self._labels))
            family.add_metric(tuple(self._labels.values()), value)
            yield family

    def _values(self) -> Iterator[tuple[str, str, float]]:
        metrics = self._metrics
        yield "request_success", "Requests with a result", requests(metrics, SUCCEEDED)
        yield "request_failure", "Right requests without one", requests(metrics, FAILED)
        yield "count", "Rows", metrics.inferences.labels().value
        yield "exec_count", "Batches", metrics.executions.labels().value
        yield "request_duration_us", "From requests to answers", request_seconds(metrics) * 1e6
        yield "queue_duration_us", "Waiting for the executor", metrics.queue_seconds.labels().sum * 1e6
        yield "compute_infer_duration_us", "In the executor", metrics.compute_seconds.labels().sum * 1e6
