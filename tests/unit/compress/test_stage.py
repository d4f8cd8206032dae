"""The compress stage: one variant, from the workspace to the workspace."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from modelmill import storage, workspace
from modelmill.compress import stage
from modelmill.compress.errors import CompressionError
from modelmill.contract.jobfile import Data, Variant
from modelmill.contract.steps import Prune, Quantize, Search, Step
from modelmill.storage import NotFound
from tests.unit.evaluate.helpers import DENSE, INT8, job, weights, write_data


def test_a_variant_is_written_and_every_number_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    steps = (Step(prune=Prune(method="Threshold", threshold=0.1)), Step(quantize=Quantize()))
    asked = job(tmp_path, stage="compress", variants=(Variant(name="small", steps=steps),))
    result = stage.run(asked)
    size, dense = storage.size(workspace.variant_uri(asked, "small")), storage.size(workspace.dense_uri(asked))
    assert result.ok
    assert [(variant.name, variant.bytes) for variant in result.variants] == [("small", size)]
    assert result.details == {
        "ratio": round(size / dense, 4),
        "sparsity": round(45 / 48, 4),
        "compressed": 1,
        "keptDense": 0,
        "compressedWeights": ["fc.weight"],
    }
    assert "fc.weight: [3, 16], sparse" in caplog.text


def test_a_second_run_writes_the_same_bytes(tmp_path: Path) -> None:
    asked = job(tmp_path, stage="compress", variants=(INT8,))
    stage.run(asked)
    first = storage.read_bytes(workspace.variant_uri(asked, "int8"))
    stage.run(asked)
    assert storage.read_bytes(workspace.variant_uri(asked, "int8")) == first


def test_a_search_leaves_its_front_beside_the_variant(tmp_path: Path) -> None:
    steps = (Step(search=Search(objective="Size", max_drop=0.1)),)
    data = Data(train=write_data(tmp_path / "train.json", rows=90), test=write_data(tmp_path / "test.json"))
    trained = weights() | {"fc.weight": weights()["fc.weight"] + 0.01 * torch.randn(3, 16, generator=torch.manual_seed(0))}
    asked = job(tmp_path, stage="compress", variants=(Variant(name="found", steps=steps),), data=data, trained=trained)
    result = stage.run(asked)
    assert result.variants[0].bytes == storage.size(workspace.variant_uri(asked, "found"))
    told = json.loads(storage.read_bytes(workspace.report_uri(asked, "found", "search.json")))
    assert told["choice"].keys() == {"fc.weight"}
    assert storage.read_bytes(workspace.report_uri(asked, "found", "search.png")).startswith(b"\x89PNG")


def test_a_method_that_is_not_faster_here_is_told_in_the_result(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = Data(train=write_data(tmp_path / "train.json"), test=write_data(tmp_path / "test.json"))
    steps = (Step(prune=Prune(sparsity=0.5)),)
    result = stage.run(job(tmp_path, stage="compress", variants=(Variant(name="sparse", steps=steps),), data=data))
    assert "times dense's time" in result.details["warnings"][0]
    assert result.details["warnings"][0] in caplog.text


def test_the_variant_without_steps_is_the_trained_model(tmp_path: Path) -> None:
    asked = job(tmp_path, stage="compress", variants=(DENSE,))
    result = stage.run(asked)
    assert (result.details["compressed"], result.details["sparsity"]) == (0, 0.0)
    assert storage.exists(workspace.variant_uri(asked, "dense"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"variants": ()}, "makes exactly one, the job file has 0"),
        ({"entrypoint": None}, "needs recipe.entrypoint"),
        ({"variants": (Variant(name="v", steps=(Step(prune=Prune()),)),)}, "steps\\[0\\]: prune.sparsity: None"),
        (
            {"trained": weights() | {"fc.weight": torch.full((3, 16), float("nan"))}},
            "tensor 'fc.weight': 48 values are not finite",
        ),
    ],
)
def test_what_cannot_be_compressed_is_refused_with_a_sentence(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(CompressionError, match=told):
        stage.run(job(tmp_path, **{"stage": "compress", "variants": (INT8,), **changes}))


def test_trained_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    asked = replace(job(tmp_path, stage="compress", variants=(INT8,)), uid="other")
    with pytest.raises(NotFound, match=r"other/dense.safetensors"):
        stage.run(asked)
