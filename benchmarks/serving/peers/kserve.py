"""KServe's Python server. Its batcher is another program, in Go, for V1 JSON only: this one has none."""

from benchmarks.serving.peers.peer import Launch, Peer, Site, handler_environment


def _launch(site: Site) -> Launch:
    return Launch(
        command=(site.python, "-m", "benchmarks.serving.peers.handlers.kserve"),
        path=f"/v2/models/{site.workload.name}/infer",
        wire=site.workload.wire,
        env=handler_environment(site),
    )


PEERS = (Peer(name="kserve", environment="kserve", requirements=("kserve==0.21.0",), launch=_launch),)
