"""What the comparison has to know about a server."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.serving.wires import Wire
from benchmarks.serving.workloads import Workload

ROOT = Path(__file__).parents[3]
MAX_ROWS = 32
DELAY_SECONDS = 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where one server of one workload is started."""

    workload: Workload
    port: int
    """The next four are free too."""
    folder: Path
    """Empty, its own."""
    python: Path
    weights: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    command: Sequence[str | Path]
    path: str
    """Of the inference URL."""
    wire: Wire
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    name: str
    environment: str
    """Peers of the same environment share an installation; an empty name is this very environment."""
    requirements: tuple[str, ...]
    launch: Callable[[Site], Launch]
    programs: tuple[str, ...] = ()
    """That the machine must have."""
    tolerance: float | None = None
    """Where the workload's own does not apply."""


def handler_environment(site: Site) -> dict[str, str]:
    """What `handlers.shared` reads; one thread, also in libraries that ask for it in their own ways."""
    return {
        "PYTHONPATH": str(ROOT),
        "BENCH_WORKLOAD": site.workload.name,
        "BENCH_WEIGHTS": str(site.weights),
        "BENCH_PORT": str(site.port),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
