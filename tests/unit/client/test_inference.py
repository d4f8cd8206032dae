"""Clients against the real server: values, datatypes, keys, certificates. Not here: what fails on the way (test_retries)."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from modelmill.client import AsyncClient, InferenceError, ModelMetadata, TensorMetadata, Unavailable
from modelmill.contract.servicefile import Tls
from modelmill.datatypes import NUMPY
from modelmill.signature import Signature, Tensor
from tests.ports import free_port
from tests.unit.client.support import Opener
from tests.unit.serve.support import MIXED, Running, mixed, running
from tests.unit.serve.test_operations import certificate

X = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float32)


def url(server: Running) -> str:
    return f"http://127.0.0.1:{server.server.port}"


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running() as found:
        yield found


@pytest.mark.parametrize("binary", [True, False])
def test_outputs_come_back_by_name_as_arrays_of_their_own(server: Running, opened: Opener, binary: bool) -> None:
    with opened(url(server)) as client:
        outputs = client.infer("m", {"x": X}, binary=binary)
    assert list(outputs) == ["y"]
    assert outputs["y"].dtype == np.float32
    np.testing.assert_array_equal(outputs["y"], X * 2)
    outputs["y"] += 1  # neither read-only nor a view of the answer


@pytest.mark.parametrize("binary", [True, False])
def test_every_datatype_passes_unchanged(opened: Opener, binary: bool) -> None:
    names = [name for name in NUMPY if name not in ("BF16", "BYTES")]
    tensors = tuple(Tensor(name=name, datatype=name, shape=(-1, 2)) for name in names)
    sent = {name: np.array([[0, 1], [1, 0], [1, 1]]).astype(NUMPY[name]) for name in names}
    sent["FP64"] = np.array([[0.1, -1e300], [5e-324, 1.0], [2.0, 3.0]])
    sent["UINT64"][0, 0], sent["INT64"][0, 0] = 2**64 - 1 if binary else 2**63 - 1, -(2**63)
    signature = Signature(inputs=tensors, outputs=tensors)
    with running(lambda *given: given, signature=signature) as server, opened(url(server)) as client:
        found = client.infer("m", sent, binary=binary)
    for name in names:
        assert found[name].dtype == sent[name].dtype
        np.testing.assert_array_equal(found[name], sent[name], err_msg=name)


@pytest.mark.parametrize("binary", [True, False])
def test_floats_are_rounded_to_the_bf16_that_a_model_declares(opened: Opener, binary: bool) -> None:
    tensor = Tensor(name="x", datatype="BF16", shape=(-1, 3))
    values = np.array([[1.0, 3.14159, -1e-20], [65504.0, 1.00390625, 0.0]], dtype=np.float32)
    rounded = values.astype(ml_dtypes.bfloat16)
    signature = Signature(inputs=(tensor,), outputs=(tensor,))
    with running(lambda x: x, signature=signature) as server, opened(url(server)) as client:
        for sent in (values, values.astype(np.float64), rounded):
            found = client.infer("m", {"x": sent}, binary=binary)["x"]
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, rounded.astype(np.float32))


def test_only_the_outputs_that_are_named_come_back(opened: Opener) -> None:
    given = {"a": np.ones((2, 4), dtype=np.float32), "k": np.array([1, 2])}
    with running(mixed, signature=MIXED) as server, opened(url(server)) as client:
        assert set(client.infer("m", given)) == {"sum", "next"}
        for binary in (True, False):
            found = client.infer("m", given, outputs=["next"], binary=binary)
            assert [(name, array.tolist()) for name, array in found.items()] == [("next", [2, 3])]


def test_a_refusal_has_the_servers_status_and_words(server: Running, opened: Opener) -> None:
    with opened(url(server)) as client:
        cases: dict[str, tuple[dict[str, Any], int, str]] = {
            "shape": ({"inputs": {"x": X[:, :2]}}, 400, "input 'x': shape"),
            "datatype": ({"inputs": {"x": X.astype(np.int32)}}, 400, "FP32"),
            "version": ({"inputs": {"x": X}, "version": 9}, 404, "version"),
            "model": ({"inputs": {"x": X}, "model": "other/model"}, 404, "other/model"),
        }
        for what, (given, status, words) in cases.items():
            with pytest.raises(InferenceError) as refused:
                client.infer(given.pop("model", "m"), given.pop("inputs"), **given)
            assert refused.value.status == status, what
            assert words in refused.value.message, what
        np.testing.assert_array_equal(client.infer("m", {"x": X}, version=3)["y"], X * 2)


def test_a_model_says_what_it_takes(server: Running, opened: Opener) -> None:
    tensor: dict[str, Any] = {"datatype": "FP32", "shape": (-1, 3)}
    expected = ModelMetadata(
        name="m",
        versions=("3",),
        platform="pytorch",
        inputs=(TensorMetadata(name="x", **tensor),),
        outputs=(TensorMetadata(name="y", **tensor),),
    )
    with opened(url(server)) as client:
        assert client.metadata("m") == client.metadata("m", version=3) == expected
        assert client.server().name == "modelmill"
        with pytest.raises(InferenceError, match="404"):
            client.metadata("other")


def test_health_tells_loading_from_ready_and_ready_from_nobody(opened: Opener) -> None:
    with running(load=False) as server, opened(url(server)) as client:
        assert (client.live(), client.ready(), client.ready("m")) == (True, False, False)
        server.on_loop(server.server.load())
        assert (client.live(), client.ready(), client.ready("m"), client.ready("other")) == (True, True, True, False)
    with opened(f"http://127.0.0.1:{free_port()}") as client:
        assert (client.live(), client.ready()) == (False, False)


def test_the_api_key_goes_along(opened: Opener, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("secret\n")
    with running(api_key_file=str(tmp_path / "keys")) as server:
        with opened(url(server), api_key="secret") as client:
            np.testing.assert_array_equal(client.infer("m", {"x": X})["y"], X * 2)
            assert client.ready("m")
        with opened(url(server), api_key="wrong") as client:
            for call in (lambda c: c.infer("m", {"x": X}), lambda c: c.metadata("m"), lambda c: c.ready("m")):
                with pytest.raises(InferenceError, match="401"):
                    call(client)


def test_a_certificate_is_trusted_when_its_authority_is_given(opened: Opener, tmp_path: Path) -> None:
    files = Tls(certificate_file=str(tmp_path / "tls.crt"), key_file=str(tmp_path / "tls.key"))
    certificate(files, name="localhost")
    with running(tls=files) as server:
        secure = f"https://localhost:{server.server.port}"
        with opened(secure, ca=files.certificate_file) as client:
            np.testing.assert_array_equal(client.infer("m", {"x": X})["y"], X * 2)
        with opened(secure) as client:
            for call in (lambda c: c.infer("m", {"x": X}), lambda c: c.ready()):
                with pytest.raises(Unavailable, match=r"not trusted.*ca="):
                    call(client)


def test_many_calls_are_under_way_at_once(server: Running) -> None:
    async def ask() -> list[dict[str, Any]]:
        async with AsyncClient(url(server)) as client:
            return await asyncio.gather(*(client.infer("m", {"x": X * i}) for i in range(50)))

    for i, outputs in enumerate(asyncio.run(ask())):
        np.testing.assert_array_equal(outputs["y"], X * i * 2)


def test_a_cancelled_call_frees_the_client(server: Running) -> None:
    def slow(x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.1)
        return x * 2

    async def ask(where: str) -> Any:
        async with AsyncClient(where) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await client.infer("m", {"x": X})
            return (await client.infer("m", {"x": X}))["y"]

    with running(slow) as other:
        np.testing.assert_array_equal(asyncio.run(ask(url(other))), X * 2)
