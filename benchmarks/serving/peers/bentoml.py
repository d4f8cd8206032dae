"""BentoML: batches of 32; it has no longest wait, only a target for latency, left at its default of a minute.

A batchable method takes one argument, so a row's tensors travel as one base64 text in JSON.
"""

from benchmarks.serving.peers.peer import Launch, Peer, Site, handler_environment
from benchmarks.serving.wires import Wire

HANDLERS = "benchmarks.serving.peers.handlers.bentoml"


def _launch(site: Site) -> Launch:
    numbers = site.workload.wire is Wire.V2_JSON
    service = f"{HANDLERS}:{'Numbers' if numbers else 'Base64'}"
    return Launch(
        command=(site.python.parent / "bentoml", "serve", service, "--host", "127.0.0.1", "--port", str(site.port)),
        path="/predict",
        wire=Wire.NUMBERS if numbers else Wire.BASE64,
        env={**handler_environment(site), "BENTOML_HOME": str(site.folder), "BENTOML_DO_NOT_TRACK": "True"},
    )


PEERS = (Peer(name="bentoml", environment="bentoml", requirements=("bentoml==1.4.39",), launch=_launch),)
