"""The peers, one file each: what is installed, how it is started, how a row travels to it.

`handlers/` holds what runs inside each peer. All share `handlers.shared`: the same weights, fp32, one torch thread, at
most 32 rows, padded to the longest in the batch.
"""

from benchmarks.serving.peers import bentoml, kserve, litserve, mlserver, torchserve, triton
from benchmarks.serving.peers.peer import Peer

PEERS: dict[str, tuple[Peer, ...]] = {
    "triton": triton.PEERS,
    "litserve": litserve.PEERS,
    "torchserve": torchserve.PEERS,
    "mlserver": mlserver.PEERS,
    "kserve": kserve.PEERS,
    "bentoml": bentoml.PEERS,
}
