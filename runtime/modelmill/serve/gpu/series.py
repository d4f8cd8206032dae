"""The metrics of models on a GPU: what became of each bucket, and how many batches were replayed.

Read from the instances when somebody collects: each counts in its own thread.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from modelmill.observe.metrics import PREFIX
from modelmill.serve.gpu.model import GpuModel


class GraphSeries(Collector):
    def __init__(self, models: Sequence[GpuModel], *, registry: CollectorRegistry) -> None:
        self._models = models
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        graphs = GaugeMetricFamily(f"{PREFIX}_graphs", "Shapes of batches by what became of their CUDA graph", labels=("state",))
        batches = CounterMetricFamily(
            f"{PREFIX}_device_batches", "Batches on the device, those of the warm-up too", labels=("way",)
        )
        for family, counts in (
            (graphs, [model.graphs.states for model in self._models]),
            (batches, [model.batches for model in self._models]),
        ):
            for label, count in _summed(counts).items():
                family.add_metric((label,), count)
            yield family


def _summed(counts: Iterable[dict[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return total
