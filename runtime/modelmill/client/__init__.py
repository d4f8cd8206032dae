"""`modelmill.client`: inference over HTTP, against any server of the Open Inference Protocol v2.

    with Client("http://localhost:8080") as client:
        outputs = client.infer("digits", {"image": images})

numpy arrays in, numpy arrays out; raw tensors on the wire where the server takes them. Needs `modelmill[client]`.
"""

from modelmill.client.awaited import AsyncClient
from modelmill.client.blocking import Client
from modelmill.client.errors import BadAnswer, ClientError, ConnectionLost, InferenceError, TimedOut, Unavailable
from modelmill.client.metadata import ModelMetadata, ServerMetadata, TensorMetadata

__all__ = [
    "AsyncClient",
    "BadAnswer",
    "Client",
    "ClientError",
    "ConnectionLost",
    "InferenceError",
    "ModelMetadata",
    "ServerMetadata",
    "TensorMetadata",
    "TimedOut",
    "Unavailable",
]
