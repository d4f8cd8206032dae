"""From a published version to answers: the loader, the channel watch, and the process with its signals."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from modelmill.artifact.errors import DigestMismatch, VariantNotFound
from modelmill.artifact.import_ import Source, import_model
from modelmill.artifact.registry import Committed, Registry
from modelmill.compress.pipeline import compress
from modelmill.compress.weights import write_weights
from modelmill.contract.steps import Quantize, Step
from modelmill.kernels import status
from modelmill.serve.channel import current_version
from modelmill.serve.loader import load
from modelmill.serve.local import service_file
from tests.unit.serve.support import running, service
from tests.unit.serve.test_http import eventually

RECIPE = """
from torch import nn
from modelmill import Recipe, Signature, Tensor


class Line(Recipe):
    def model(self):
        return nn.Linear(3, 2)

    def signature(self):
        return Signature(inputs=(Tensor(name="x", shape=(-1, 3)),), outputs=(Tensor(name="y", shape=(-1, 2)),))
"""
WEIGHT = torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]])
BIAS = torch.tensor([0.5, -0.5])
ROW, ANSWER = [1.0, 1.0, 1.0], [6.5, 0.5]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(url=f"file://{tmp_path}/registry", namespace="default")


@pytest.fixture
def published(registry: Registry, tmp_path: Path) -> Committed:
    folder = tmp_path / "recipe"
    folder.mkdir()
    (folder / "line.py").write_text(RECIPE)
    save_file({"weight": WEIGHT, "bias": BIAS}, tmp_path / "w.safetensors")
    source = Source(weights=tmp_path / "w.safetensors", recipe=folder, entrypoint="line:Line")
    return import_model(registry, "m", source=source, channel="stable")


def serving(registry: Registry, published: Committed, **changes: Any) -> dict[str, Any]:
    return {"registry": registry.url, "digest": published.digest, "version": published.manifest.version, **changes}


def test_a_published_version_is_served(registry: Registry, published: Committed) -> None:
    with running(loader=load, **serving(registry, published)) as server:
        assert server.predict([ROW, ROW]) == (200, {"predictions": [ANSWER, ANSWER]})
        assert all(server.metric("phase_seconds", phase=phase) > 0 for phase in ("import", "fetch", "load", "warm-up"))


def test_it_is_told_what_computes_with_compressed_weights(registry: Registry, tmp_path: Path) -> None:
    folder = tmp_path / "recipe"
    folder.mkdir()
    (folder / "line.py").write_text(RECIPE.replace("nn.Linear(3, 2)", "nn.Sequential(nn.Linear(3, 2))"))
    module = torch.nn.Sequential(torch.nn.Linear(3, 2))
    write_weights(tmp_path / "w.safetensors", compress(module, (Step(quantize=Quantize()),)).weights)
    source = Source(weights=tmp_path / "w.safetensors", recipe=folder, entrypoint="line:Line")
    published = import_model(registry, "m", source=source, channel=None)
    with running(loader=load, **serving(registry, published)) as server:
        assert server.predict([ROW])[0] == 200
        assert server.metric("weights", way=status()["isa"]) == 1


def test_an_exported_program_is_served(registry: Registry, tmp_path: Path) -> None:
    module = torch.nn.Linear(3, 2)
    module.load_state_dict({"weight": WEIGHT, "bias": BIAS})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, while it traces
        program = torch.export.export(module, (torch.zeros(2, 3),), dynamic_shapes=({0: torch.export.Dim("batch")},))
        torch.export.save(program, tmp_path / "line.pt2")
    published = import_model(registry, "m", source=Source(program=tmp_path / "line.pt2"), channel=None)
    with running(loader=load, **serving(registry, published)) as server:
        assert server.predict([ROW] * 3) == (200, {"predictions": [ANSWER] * 3})


def test_changed_weights_and_an_unknown_variant_are_not_served(registry: Registry, published: Committed) -> None:
    with (
        running(load=False, loader=load, **serving(registry, published, variant="int4")) as server,
        pytest.raises(VariantNotFound),
    ):
        server.on_loop(server.server.load())
    weights = Path(registry.version_url("m", 1).removeprefix("file://"), "dense.safetensors")
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    with running(load=False, loader=load, **serving(registry, published)) as server:
        with pytest.raises(DigestMismatch):
            server.on_loop(server.server.load())
        assert server.admin("/readyz")[0] == 503


def test_a_moved_channel_is_told_and_does_not_change_what_is_served(registry: Registry, published: Committed) -> None:
    with running(loader=load, **serving(registry, published, channel="stable")) as server:
        assert eventually(lambda: server.admin("/load")[1]["channelVersion"] == published.manifest.version)
        assert server.metric("model_info", model="m", version="1", variant="dense", digest=published.digest) == 1
    assert current_version(service(registry=registry.url, channel="empty")) is None


def test_a_laptop_resolves_the_channel_itself(registry: Registry, published: Committed) -> None:
    options: dict[str, Any] = {"namespace": "default", "model": "m", "channel": "stable", "version": None, "variant": None}
    found = service_file(registry=registry.url, port=9000, **options)
    assert (found.version, found.digest, found.variant) == (1, published.digest, "dense")
    assert (found.port, found.admin_port) == (9000, 9001)
