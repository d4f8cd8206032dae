"""Triton: the tritonserver binary in the wheel of nvidia-pytriton, with its Python backend, twice: delay 0 and 2 ms.

pytriton itself is left out: its proxy costs more than half of what the binary does. Requests of different lengths
share a batch (`allow_ragged_batch`), which Triton's Python backend can do.
"""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from benchmarks.serving.peers.peer import DELAY_SECONDS, MAX_ROWS, ROOT, Launch, Peer, Site, handler_environment
from benchmarks.serving.workloads import Row

MODEL = """
import sys

sys.path[:0] = {paths!r}
from benchmarks.serving.peers.handlers.triton import TritonPythonModel
"""
_TYPES = {"float32": "TYPE_FP32", "int64": "TYPE_INT64"}


def _launch(delay_seconds: float) -> Callable[[Site], Launch]:
    def launch(site: Site) -> Launch:
        packages = site.python.parents[1] / "lib/python3.11/site-packages"
        server = packages / "pytriton" / "tritonserver"
        backends = site.folder / "backends"
        shutil.copytree(server / "backends", backends)
        shutil.copy(server / "python_backend_stubs" / "3.11" / "triton_python_backend_stub", backends / "python")
        model = site.folder / "models" / site.workload.name
        (model / "1").mkdir(parents=True)
        (model / "1" / "model.py").write_text(MODEL.format(paths=_paths(packages)))
        (model / "config.pbtxt").write_text(_config(site, delay_seconds))
        libraries = [*packages.glob("*pytriton.libs"), _library_folder(site.python)]
        return Launch(
            command=(
                server / "bin" / "tritonserver",
                *("--model-repository", site.folder / "models", "--backend-directory", backends),
                *("--http-port", str(site.port), "--http-address", "127.0.0.1", "--allow-grpc", "false"),
                *("--allow-metrics", "false", "--log-info", "false"),
            ),
            path=f"/v2/models/{site.workload.name}/infer",
            wire=site.workload.wire,
            env={
                **handler_environment(site),
                "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
            },
        )

    return launch


def _paths(packages: Path) -> list[str]:
    """The interpreter that Triton embeds reads neither PYTHONPATH nor a virtual environment's .pth files."""
    return [str(ROOT), str(packages), (packages / "shared_torch.pth").read_text().strip()]


def _config(site: Site, delay_seconds: float) -> str:
    row = site.workload.all_rows()[0]
    inputs = ", ".join(_input(name, row) for name in row)
    return f"""
name: "{site.workload.name}"
backend: "python"
max_batch_size: {MAX_ROWS}
input [ {inputs} ]
output [ {{ name: "{site.workload.output}", data_type: TYPE_FP32, dims: [ -1 ] }} ]
instance_group [ {{ kind: KIND_CPU, count: 1 }} ]
dynamic_batching {{ max_queue_delay_microseconds: {int(delay_seconds * 1e6)} }}
"""


def _input(name: str, row: Row) -> str:
    array = row[name]
    # Tokens: the only input whose size differs between rows.
    ragged = array.dtype == "int64"
    dims = "-1" if ragged else ", ".join(map(str, array.shape[1:]))
    more = ", allow_ragged_batch: true" if ragged else ""
    return f'{{ name: "{name}", data_type: {_TYPES[array.dtype.name]}, dims: [ {dims} ]{more} }}'


def _library_folder(python: Path) -> Path:
    """Where this interpreter's libpython is: the stub would else take the system's, of another patch release."""
    command = [str(python), "-c", "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"]
    return Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())


PEERS = tuple(
    Peer(name=name, environment="triton", requirements=("nvidia-pytriton==0.7.0",), launch=_launch(delay))
    for name, delay in (("triton, no delay", 0.0), (f"triton, {DELAY_SECONDS * 1000:g} ms", DELAY_SECONDS))
)
