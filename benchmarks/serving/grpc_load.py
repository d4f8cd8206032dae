"""The same load over gRPC, which wrk does not speak: so many calls at once in a closed loop, each row in turn.

    python -m benchmarks.serving.grpc_load PORT WORKLOAD CALLS CONNECTIONS EXPECTED

Messages are serialized before the clock starts and answers are not parsed. `EXPECTED` holds the right answers of the
first rows, which are asked for once before. An empty line says that it is ready; then for each line with a number of
seconds it sends for so long and writes a line as rotate.lua does. The rate ends with the last answer. Its connections stay
open between, as those of gRPC's clients do: what they do at first (for ten seconds they measure their bandwidth, with
pings) belongs to the warm-up.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import sys
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
# Else all channels of a process to one address share one connection.
OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


def message(model: str, row: workloads.Row) -> bytes:
    request = messages.ModelInferRequest(model_name=model)
    for name, array in row.items():
        request.inputs.add(name=name, datatype=DATATYPES[array.dtype.name], shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    content: bytes = request.SerializeToString()
    return content


async def check(infer: Any, requests: list[bytes], expected: Path, *, tolerance: float) -> None:
    for request, wanted in zip(requests, np.load(expected), strict=False):
        content = await infer(request)
        given = np.frombuffer(messages.ModelInferResponse.FromString(content).raw_output_contents[0], dtype=np.float32)
        if not np.abs(given - wanted).max() <= tolerance * np.abs(wanted).max():
            raise SystemExit("a wrong answer over gRPC")


class Run:
    """One turn: from the first row on."""

    def __init__(self, requests: list[bytes]) -> None:
        self._turn: Iterator[bytes] = itertools.cycle(requests)
        self._last = 0.0
        self._latencies: list[float] = []
        self._refused = 0

    async def load(self, methods: list[Any], *, seconds: float) -> dict[str, float]:
        began = time.perf_counter()
        clients = [asyncio.create_task(self._client(infer, until=began + seconds)) for infer in methods]
        await asyncio.sleep(seconds)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        percentiles = statistics.quantiles(self._latencies, n=100)
        told = {"seconds": self._last - began, "answers": len(self._latencies), "refused": self._refused, "broken": 0}
        return {**told, "p50": percentiles[49] * 1000, "p99": percentiles[98] * 1000}

    async def _client(self, infer: Any, *, until: float) -> None:
        while (began := time.perf_counter()) < until:
            try:
                await infer(next(self._turn))
            except grpc.aio.AioRpcError:
                self._refused += 1
            self._last = time.perf_counter()
            self._latencies.append(self._last - began)


async def run(arguments: argparse.Namespace) -> None:
    workload = workloads.find(arguments.workload)
    requests = [message(workload.name, row) for row in workload.all_rows()]
    address, options = f"127.0.0.1:{arguments.port}", OWN_CONNECTION
    channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(arguments.connections)]
    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    methods: list[Any] = [channel.unary_unary(METHOD) for channel in itertools.islice(itertools.cycle(channels), arguments.calls)]
    await check(methods[0], requests, arguments.expected, tolerance=workload.tolerance)
    print(flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await Run(requests).load(methods, seconds=float(line))), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("workload")
    parser.add_argument("calls", type=int)
    parser.add_argument("connections", type=int)
    parser.add_argument("expected", type=Path)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
