"""TorchServe: one worker, batches of 32 with 2 ms; raw bytes for large tensors. Needs Java."""

import json
import subprocess
from pathlib import Path

from benchmarks.serving.peers.peer import DELAY_SECONDS, MAX_ROWS, Launch, Peer, Site, handler_environment
from benchmarks.serving.wires import Wire

HANDLER = Path(__file__).parent / "handlers" / "torchserve.py"


def _launch(site: Site) -> Launch:
    name, programs = site.workload.name, site.python.parent
    store = site.folder / "store"
    store.mkdir()
    archive = (programs / "torch-model-archiver", "--model-name", name, "--version", "1.0", "--handler", HANDLER)
    subprocess.run([*archive, "--export-path", store], check=True, capture_output=True)
    settings = site.folder / "config.properties"
    settings.write_text(_settings(site, store))
    return Launch(
        command=(programs / "torchserve", "--start", "--foreground", "--ncs", "--ts-config", settings, "--disable-token-auth"),
        path=f"/predictions/{name}",
        wire=Wire.RAW if site.workload.wire is Wire.V2_BINARY else Wire.NUMBERS,
        # Its process file and sockets lie in the temporary folder.
        env={**handler_environment(site), "PATH": f"{programs}:/usr/bin:/bin", "TMPDIR": str(site.folder)},
    )


def _settings(site: Site, store: Path) -> str:
    worker = {"minWorkers": 1, "maxWorkers": 1, "batchSize": MAX_ROWS, "maxBatchDelay": int(DELAY_SECONDS * 1000)}
    name = site.workload.name
    return f"""
inference_address=http://127.0.0.1:{site.port}
management_address=http://127.0.0.1:{site.port + 1}
metrics_address=http://127.0.0.1:{site.port + 2}
grpc_inference_port={site.port + 3}
grpc_management_port={site.port + 4}
model_store={store}
load_models={name}.mar
models={json.dumps({name: {"1.0": {"defaultVersion": True, "marName": f"{name}.mar", **worker}}})}
"""


PEERS = (
    Peer(
        name="torchserve",
        environment="torchserve",
        requirements=("torchserve==0.12.0", "torch-model-archiver==0.12.0"),
        launch=_launch,
        programs=("java",),
    ),
)
