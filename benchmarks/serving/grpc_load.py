"""The same load over gRPC, which wrk does not speak: N connections in a closed loop, each row in turn.

    python -m benchmarks.serving.grpc_load PORT WORKLOAD CONNECTIONS SECONDS EXPECTED

Messages are serialized before the clock starts and answers are not parsed. `EXPECTED` holds the right answers of the
first rows, which are asked for once before. Ends with a line as rotate.lua writes it; the rate ends with the last answer.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
from tritonclient.grpc import service_pb2 as messages

from benchmarks.serving import workloads

METHOD = "/inference.GRPCInferenceService/ModelInfer"
DATATYPES = {"float32": "FP32", "int64": "INT64"}
# Else all channels of a process share one connection.
OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


def message(model: str, row: workloads.Row) -> bytes:
    request = messages.ModelInferRequest(model_name=model)
    for name, array in row.items():
        request.inputs.add(name=name, datatype=DATATYPES[array.dtype.name], shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    content: bytes = request.SerializeToString()
    return content


class Run:
    def __init__(self, port: int, requests: list[bytes]) -> None:
        self._address = f"127.0.0.1:{port}"
        self._requests = requests
        self._turn: Iterator[bytes] = itertools.cycle(requests)
        self._deadline = self._last = 0.0
        self.latencies: list[float] = []
        self.refused = 0

    async def check(self, expected: Path, *, tolerance: float) -> None:
        async with grpc.aio.insecure_channel(self._address) as channel:
            for request, wanted in zip(self._requests, np.load(expected), strict=False):
                content = await _method(channel)(request)
                given = np.frombuffer(messages.ModelInferResponse.FromString(content).raw_output_contents[0], dtype=np.float32)
                if not np.abs(given - wanted).max() <= tolerance * np.abs(wanted).max():
                    raise SystemExit("a wrong answer over gRPC")

    async def load(self, connections: int, *, seconds: float) -> float:
        """Seconds from the first request to the last answer."""
        channels = [grpc.aio.insecure_channel(self._address, options=OWN_CONNECTION) for _ in range(connections)]
        await asyncio.gather(*(channel.channel_ready() for channel in channels))
        began = time.perf_counter()
        self._deadline = began + seconds
        clients = [asyncio.create_task(self._client(_method(channel))) for channel in channels]
        await asyncio.sleep(seconds)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        await asyncio.gather(*(channel.close() for channel in channels))
        return self._last - began

    async def _client(self, infer: Any) -> None:
        while (began := time.perf_counter()) < self._deadline:
            try:
                await infer(next(self._turn))
            except grpc.aio.AioRpcError:
                self.refused += 1
            self._last = time.perf_counter()
            self.latencies.append(self._last - began)


def _method(channel: grpc.aio.Channel) -> Any:
    return channel.unary_unary(METHOD)


async def run(arguments: argparse.Namespace) -> None:
    workload = workloads.find(arguments.workload)
    load = Run(arguments.port, [message(workload.name, row) for row in workload.all_rows()])
    await load.check(arguments.expected, tolerance=workload.tolerance)
    seconds = await load.load(arguments.connections, seconds=arguments.seconds)
    percentiles = statistics.quantiles(load.latencies, n=100)
    told = {"seconds": seconds, "answers": len(load.latencies), "refused": load.refused, "broken": 0}
    print(json.dumps({**told, "p50": percentiles[49] * 1000, "p99": percentiles[98] * 1000}))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("workload")
    parser.add_argument("connections", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("expected", type=Path)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
