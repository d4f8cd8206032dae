"""MLServer: a custom runtime in the server's own process, batches of 32 with 2 ms.

It refuses binary tensors over REST (an answer of 500); its base64 codec stands in for them.
"""

import json

from benchmarks.serving.peers.peer import DELAY_SECONDS, MAX_ROWS, Launch, Peer, Site, handler_environment
from benchmarks.serving.wires import Wire

RUNTIME = "benchmarks.serving.peers.handlers.mlserver.Runtime"


def _launch(site: Site) -> Launch:
    name = site.workload.name
    ports = {"http_port": site.port, "grpc_port": site.port + 1, "metrics_port": site.port + 2}
    server = {"host": "127.0.0.1", **ports, "parallel_workers": 0, "debug": False}
    model = {"name": name, "implementation": RUNTIME, "max_batch_size": MAX_ROWS, "max_batch_time": DELAY_SECONDS}
    for file, content in (("settings.json", server), ("model-settings.json", model)):
        (site.folder / file).write_text(json.dumps(content))
    return Launch(
        command=(site.python.parent / "mlserver", "start", site.folder),
        path=f"/v2/models/{name}/infer",
        wire=Wire.V2_BASE64 if site.workload.wire is Wire.V2_BINARY else Wire.V2_JSON,
        env=handler_environment(site),
    )


PEERS = (Peer(name="mlserver", environment="mlserver", requirements=("mlserver==1.7.1",), launch=_launch),)
