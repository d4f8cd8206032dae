"""What the pod uses of its node besides processor and memory: disk, network, and the device where there is one.

Read when somebody collects, never in between. Sources: proc_pid_io(5), /proc/net/dev, and CUDA by way of torch.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

IO, NETWORK = Path("/proc/self/io"), Path("/proc/self/net/dev")


class Resources(Collector):
    def __init__(self, prefix: str, *, registry: CollectorRegistry) -> None:
        self._prefix = prefix
        registry.register(self)

    def describe(self) -> Iterable[Metric]:
        # So that registering does not collect.
        return ()

    def collect(self) -> Iterator[Metric]:
        disk = CounterMetricFamily(
            f"{self._prefix}_disk_bytes", "Bytes that storage read or wrote for this process", labels=("way",)
        )
        network = CounterMetricFamily(
            f"{self._prefix}_network_bytes", "Bytes through the pod's interfaces but the loopback", labels=("way",)
        )
        for family, found in ((disk, _disk(IO)), (network, _through(NETWORK))):
            for way, size in found.items():
                family.add_metric((way,), size)
            yield family
        yield from self._device()

    def _device(self) -> Iterator[Metric]:
        # Not imported for this: before the model is loaded there is nothing to tell.
        torch = sys.modules.get("torch")
        if torch is None or not torch.cuda.is_available():
            return
        memory = GaugeMetricFamily(f"{self._prefix}_device_memory_bytes", "Memory of the device", labels=("device", "kind"))
        busy = GaugeMetricFamily(
            f"{self._prefix}_device_utilization", "Share of the last second it computed in", labels=("device",)
        )
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            memory.add_metric((str(index), "used"), total - free)
            memory.add_metric((str(index), "total"), total)
            if (share := _utilization(torch, index)) is not None:
                busy.add_metric((str(index),), share)
        yield memory
        yield busy


def _disk(path: Path) -> dict[str, int]:
    try:
        fields = dict(line.split(": ") for line in path.read_text().splitlines())
    except OSError:
        return {}
    return {"read": int(fields["read_bytes"]), "written": int(fields["write_bytes"])}


def _through(path: Path) -> dict[str, int]:
    try:
        lines = path.read_text().splitlines()[2:]
    except OSError:
        return {}
    counts = [fields.split() for name, _, fields in (line.partition(":") for line in lines) if name.strip() != "lo"]
    return {"received": sum(int(each[0]) for each in counts), "sent": sum(int(each[8]) for each in counts)}


def _utilization(torch: Any, index: int) -> float | None:
    try:
        share: float = torch.cuda.utilization(index) / 100
        return share
    except Exception:  # NVML is a package of its own, and MIG devices have no such figure
        return None
