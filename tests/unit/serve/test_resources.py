"""Disk, network and device in the metrics, as the kernel and CUDA tell them."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from modelmill.observe import resources
from tests.unit.serve.support import running

IO = "rchar: 1\nwchar: 2\nsyscr: 3\nsyscw: 4\nread_bytes: 4096\nwrite_bytes: 8192\ncancelled_write_bytes: 0\n"
NETWORK = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:  999       1    0    0    0     0          0         0      999       1    0    0    0     0       0          0
  eth0: 1000       2    0    0    0     0          0         0     2000       2    0    0    0     0       0          0
  net1:   10       2    0    0    0     0          0         0       20       2    0    0    0     0       0          0
"""
Values = Callable[..., float | None]


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Values:
    """Values of metrics, from files in `tmp_path` instead of the kernel's."""
    monkeypatch.setattr(resources, "IO", tmp_path / "io")
    monkeypatch.setattr(resources, "NETWORK", tmp_path / "dev")
    registry = CollectorRegistry()
    resources.Resources("x", registry=registry)
    return lambda name, **labels: registry.get_sample_value(f"x_{name}", labels)


def test_disk_and_network_are_read_when_somebody_asks(tmp_path: Path, found: Values) -> None:
    assert found("disk_bytes_total", way="read") is None
    (tmp_path / "io").write_text(IO)
    (tmp_path / "dev").write_text(NETWORK)
    assert (found("disk_bytes_total", way="read"), found("disk_bytes_total", way="written")) == (4096, 8192)
    assert (found("network_bytes_total", way="received"), found("network_bytes_total", way="sent")) == (1010, 2020)


def no_nvml(index: int) -> Any:
    raise ModuleNotFoundError("pynvml")


@pytest.mark.parametrize(("utilization", "share"), [(lambda index: 42, 0.42), (no_nvml, None)])
def test_a_device_tells_its_memory_and_how_busy_it_is(
    found: Values, monkeypatch: pytest.MonkeyPatch, utilization: Callable[[int], Any], share: float | None
) -> None:
    cuda = SimpleNamespace(
        is_available=lambda: True, device_count=lambda: 1, mem_get_info=lambda index: (30, 100), utilization=utilization
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert found("device_memory_bytes", device="0", kind="used") == 70
    assert found("device_memory_bytes", device="0", kind="total") == 100
    assert found("device_utilization", device="0") == share


def test_a_server_s_metrics_have_them() -> None:
    with running() as server:
        text = server.exchange("GET", "/metrics", admin=True)[1].decode()
        assert 'modelmill_serve_disk_bytes_total{way="read"}' in text
        assert 'modelmill_serve_network_bytes_total{way="received"}' in text
