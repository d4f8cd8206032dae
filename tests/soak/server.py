"""The server under soak, in a process of its own: a module whose capacity is known, in front of it all that is shipped.

Prints its ports as one line of JSON when it is ready.
"""

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
import uvloop

from modelmill.contract.servicefile import Batcher, ServiceFile
from modelmill.observe import logs
from modelmill.serve.model import TorchModel
from modelmill.serve.phases import Phases
from modelmill.serve.server import Server
from modelmill.signature import Signature, Tensor

ROWS, BATCH_SECONDS = 8, 0.01
CAPACITY = ROWS / BATCH_SECONDS
"""Rows a second."""
SIGNATURE = Signature(inputs=(Tensor(name="x", shape=(-1, 4)),), outputs=(Tensor(name="y", shape=(-1, 4)),))


def double(x: torch.Tensor) -> torch.Tensor:
    time.sleep(BATCH_SECONDS)
    return x * 2


def load(service: ServiceFile, *, phases: Phases, into: Path) -> TorchModel:
    return TorchModel(double, signature=SIGNATURE)


def _end(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An exception that nobody catches is a bug: the soak fails."""
    loop.default_exception_handler(context)
    os._exit(70)


async def serve() -> None:
    asyncio.get_running_loop().set_exception_handler(_end)
    service = ServiceFile(
        namespace="default",
        service="soak",
        model="m",
        version=1,
        digest="sha256:0",
        variant="dense",
        registry="file:///nowhere",
        port=0,
        admin_port=0,
        grpc_port=0,
        queue_limit=64,
        # Its capacity is known: one batch at a time.
        batcher=Batcher(max_batch_size=ROWS, instances=1),
    )
    server = Server(service, load=load)
    await server.start(("127.0.0.1",))
    await server.load()
    print(json.dumps({"port": server.port, "admin": server.admin_port}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    logs.configure()
    uvloop.run(serve())
