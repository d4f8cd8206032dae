"""KServe's own Python client, unmodified, over REST (both protocols) and gRPC."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc
import httpx
import kserve
import numpy as np
import pytest
from kserve.inference_client import RESTConfig

from tests.unit.serve.support import Running, running

X = np.array([[1, 2, 3], [4, 5, 6]], np.float32)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running() as handle:
        yield handle


def rest(server: Running, protocol: str, calls: Callable[[kserve.InferenceRESTClient, str], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with kserve.InferenceRESTClient(RESTConfig(protocol=protocol)) as client:
            return await calls(client, f"http://127.0.0.1:{server.server.port}")

    return asyncio.run(run())


def over_grpc(server: Running, calls: Callable[[kserve.InferenceGRPCClient], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with kserve.InferenceGRPCClient(f"127.0.0.1:{server.server.grpc_port}") as client:
            return await calls(client)

    return asyncio.run(run())


def request(*, binary: bool, name: str = "x") -> kserve.InferRequest:
    given = kserve.InferInput(name=name, shape=list(X.shape), datatype="FP32")
    given.set_data_from_numpy(X, binary_data=binary)
    return kserve.InferRequest(model_name="m", infer_inputs=[given])


def doubled(answer: Any) -> None:
    assert answer.model_name == "m"
    np.testing.assert_array_equal(answer.outputs[0].as_numpy(), X * 2)


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_it_finds_the_server_and_the_model(server: Running, protocol: str) -> None:
    async def calls(client: kserve.InferenceRESTClient, url: str) -> list[bool]:
        found = [await client.is_server_live(url), await client.is_model_ready(url, "m")]
        return [*found, await client.is_server_ready(url)] if protocol == "v2" else found

    assert all(rest(server, protocol, calls))


def test_v1_predicts(server: Running) -> None:
    answer = rest(server, "v1", lambda client, url: client.infer(url, {"instances": X.tolist()}, model_name="m"))
    assert answer == {"predictions": (X * 2).tolist()}


@pytest.mark.parametrize("binary", [False, True])
def test_v2_infers(server: Running, binary: bool) -> None:
    doubled(rest(server, "v2", lambda client, url: client.infer(url, request(binary=binary), model_name="m")))


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_a_mistake_is_told_in_our_words(server: Running, protocol: str) -> None:
    wrong: dict[str, Any] = {"v1": {"instances": [[1]]}, "v2": request(binary=False, name="z")}
    with pytest.raises(httpx.HTTPStatusError, match=r"input '?x|inputs\[0\]: 'z'"):
        rest(server, protocol, lambda client, url: client.infer(url, wrong[protocol], model_name="m"))


def test_grpc_finds_and_infers(server: Running) -> None:
    async def calls(client: kserve.InferenceGRPCClient) -> None:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("m")
        doubled(await client.infer(request(binary=True)))
        with pytest.raises(grpc.RpcError, match="'z'"):
            await client.infer(request(binary=True, name="z"))

    over_grpc(server, calls)
