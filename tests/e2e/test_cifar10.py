"""examples/cifar10 on a part of the images: published weights, data and registry in a bucket, int8, answers over HTTP."""

import io
import json
import os
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet
import pytest
import torch
import yaml

from examples.cifar10.recipe import Cifar10
from examples.demo import kube
from tests.cluster import config, foreign
from tests.cluster.process import wait_until
from tests.cluster.s3 import S3, s3_server
from tests.e2e import resources
from tests.e2e.conftest import EXAMPLES, Record

EXAMPLE = EXAMPLES / "cifar10"
DATA = Path(os.environ.get("MODELMILL_DATA") or EXAMPLES.parents[1] / "shared" / "data")
TRAINING, HELD_OUT, ASKED = 1024, 500, 32
TABLE = {"resnet20-cifar10": 0.8103, "resnet20-cifar10-jpeg": 0.8792}
"""Accuracy on all 10,000 test images, as measured by those who made the weights."""
NEAR = 0.03
QUICK = {"batchSize": 64, "maxSteps": 12, "lr": "0.005"}

pytestmark = [
    pytest.mark.skipif(not (DATA / "cifar10").is_dir(), reason=f"no {DATA}/cifar10: set MODELMILL_DATA to where the data is"),
    pytest.mark.skipif(foreign.kind_of_cluster() != "built-in", reason="pods of another cluster may not reach a server here"),
]


@pytest.fixture(scope="module")
def held_out() -> bytes:
    return _first("test", HELD_OUT)


@pytest.fixture(scope="module")
def images(held_out: bytes, tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.Tensor, torch.Tensor]:
    path = tmp_path_factory.mktemp("cifar10") / "test.parquet"
    path.write_bytes(held_out)
    rows = Cifar10({}).dataset(f"file://{path}", training=False)
    return torch.stack([rows[index][0] for index in range(len(rows))]), rows.labels


@pytest.fixture(scope="module")
def s3(held_out: bytes) -> Iterator[S3]:
    """The bucket that the README of the example asks for."""
    files = {
        "train.parquet": _first("train", TRAINING),
        "test.parquet": held_out,
        "resnet20.safetensors": (DATA / "models" / "resnet20-cifar10.safetensors").read_bytes(),
    }
    with s3_server(host=config.node_address()) as server:
        given = {"key": server.access_key, "secret": server.secret_key, "endpoint_url": server.endpoint}
        store = fsspec.filesystem("s3", **given)
        for name, content in files.items():
            store.pipe_file(f"{server.bucket}/cifar10/{name}", content)
        yield server


@pytest.fixture(scope="module")
def job(space: kube.Namespace, s3: S3) -> kube.Object:
    """The TrainingJob of the example when it is done, with fewer steps."""
    keys = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key, "AWS_ENDPOINT_URL": s3.endpoint}
    space("create", "secret", "generic", "s3", *(f"--from-literal={name}={value}" for name, value in keys.items()))
    applied = list(yaml.safe_load_all(kube.kubectl("kustomize", str(EXAMPLE))))
    for found in applied:
        if found["kind"] == "TrainingJob":
            found["spec"]["hyperparameters"] |= QUICK
    space.apply(*applied)
    return resources.finished(space, "cifar10", seconds=600)


def _first(part: str, rows: int) -> bytes:
    """A parquet file of the first rows."""
    with pyarrow.parquet.ParquetFile(DATA / "cifar10" / f"{part}.parquet") as file:
        batch = next(file.iter_batches(batch_size=rows))
    made = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_batches([batch]), made)
    return made.getvalue()


@pytest.mark.parametrize("weights", TABLE)
def test_the_recipe_computes_what_the_published_weights_were_trained_for(
    weights: str, images: tuple[torch.Tensor, torch.Tensor]
) -> None:
    recipe = Cifar10({"init": f"file://{DATA}/models/{weights}.safetensors"})
    module = recipe.model()
    recipe.initialize(module)
    with torch.inference_mode():
        right = module.eval()(images[0]).argmax(dim=1) == images[1]
    assert float(right.float().mean()) == pytest.approx(TABLE[weights], abs=NEAR)


def test_fine_tuning_keeps_what_the_published_weights_know_and_int8_is_close(job: kube.Object, must: Record) -> None:
    variants = {entry["name"]: entry for entry in job["status"]["variants"]}
    dense, int8 = (float(variants[name]["metrics"]["accuracy"]) for name in ("dense", "int8"))
    must("cifar10_dense_accuracy", dense, "1")
    must("cifar10_int8_drop", round(dense - int8, 6), "1")
    assert TABLE["resnet20-cifar10"] - NEAR <= dense <= TABLE["resnet20-cifar10-jpeg"] + NEAR
    assert dense - int8 <= 0.01
    assert variants["int8"]["bytes"] / variants["dense"]["bytes"] <= 0.35
    assert job["status"]["progress"]["step"] == QUICK["maxSteps"]


def test_the_service_tells_images_apart(
    space: kube.Namespace, job: kube.Object, images: tuple[torch.Tensor, torch.Tensor]
) -> None:
    service = space.until("modelservice", "cifar10", lambda found: kube.holds(found, "Ready"), seconds=300)
    assert service["status"]["version"] == job["status"]["published"]["version"]
    answer = _infer(space, images[0][:ASKED])
    scores = torch.tensor(answer["outputs"][0]["data"]).reshape(ASKED, -1)
    assert float((scores.argmax(dim=1) == images[1][:ASKED]).float().mean()) >= 0.7


def _reaches(address: str) -> bool:
    try:
        socket.create_connection((address, 80), timeout=5).close()
    except OSError:
        return False
    return True


def _infer(space: kube.Namespace, images: torch.Tensor) -> dict[str, Any]:
    """The service's answer to a request from this machine, which reaches Services of the built-in cluster."""
    address = space.get("service", "cifar10")["spec"]["clusterIP"]
    wait_until(lambda: _reaches(address), "the node routes to the new pod", seconds=20)
    tensor = {"name": "image", "datatype": "FP32", "shape": list(images.shape), "data": images.ravel().tolist()}
    request = urllib.request.Request(f"http://{address}/v2/models/cifar10/infer", json.dumps({"inputs": [tensor]}).encode())
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=120) as reply:
        answer: dict[str, Any] = json.loads(reply.read())
    return answer
