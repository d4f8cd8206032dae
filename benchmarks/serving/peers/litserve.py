"""LitServe: one API server, one worker, batches of 32 with 2 ms. It has no binary tensors: base64 in JSON stands in."""

from benchmarks.serving.peers.peer import Launch, Peer, Site, handler_environment
from benchmarks.serving.wires import Wire


def _launch(site: Site) -> Launch:
    return Launch(
        command=(site.python, "-m", "benchmarks.serving.peers.handlers.litserve"),
        path="/predict",
        wire=Wire.BASE64 if site.workload.wire is Wire.V2_BINARY else Wire.NUMBERS,
        env=handler_environment(site),
    )


PEERS = (Peer(name="litserve", environment="litserve", requirements=("litserve==0.2.19",), launch=_launch),)
