"""The search as a step: from a trained model to a file within the budget, and its account."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from modelmill.compress.apply import load_variant
from modelmill.compress.encode import Compressed
from modelmill.compress.errors import CompressionError
from modelmill.compress.pipeline import compress
from modelmill.compress.search.run import split
from modelmill.compress.weights import write_weights
from modelmill.contract.steps import Distill, Prune, Quantize, Search, Step, Training
from tests.compression.methods.taught import Rows, blobs, context, mlp, right
from tests.compression.search.test_sensitivity import Squares

HIDDEN = 64
SIZE = Step(search=Search(objective="Size", max_drop=0.02))
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def material() -> Rows:
    return blobs(rows=768)


@pytest.fixture(scope="module")
def teacher(material: Rows) -> nn.Module:
    module = mlp(hidden=HIDDEN)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(6):
        for inputs, targets in material.batches(epoch=epoch, batch_size=64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(inputs), targets).backward()
            optimizer.step()
    assert right(module, material) > 0.9
    return module.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def made(teacher: nn.Module, material: Rows) -> Compressed:
    return compress(teacher, (SIZE,), context(material, teacher=teacher))


@pytest.fixture(scope="module")
def told(made: Compressed) -> Any:
    return json.loads(made.reports["search.json"])


def test_the_variant_is_smaller_than_int8_and_loses_no_more_than_the_budget_on_rows_of_its_own(
    made: Compressed, teacher: nn.Module, material: Rows, tmp_path: Path
) -> None:
    size = write_weights(tmp_path / "found", made.weights)
    int8 = compress(teacher, (Step(quantize=Quantize()),), context(material, teacher=teacher))
    assert size < write_weights(tmp_path / "int8", int8.weights)
    loaded = load_variant(mlp(hidden=HIDDEN), tmp_path / "found")
    other = blobs(rows=512, seed=7)
    assert right(loaded, other) >= right(teacher, other) - 0.04


def test_the_account_has_each_layer_the_whole_front_and_what_was_measured(told: Any) -> None:
    assert set(told["layers"]) == set(told["choice"]) == {"0.weight", "3.weight", "5.weight"}
    predicted = [point["predicted"] for point in told["front"]]
    assert [one["bytes"] for one in predicted] == sorted((one["bytes"] for one in predicted), reverse=True)
    assert [one["lossIncrease"] for one in predicted] == sorted(one["lossIncrease"] for one in predicted)
    measured = [point["measured"] for point in told["front"] if point["measured"]]
    assert 1 <= len(measured) <= 6
    chosen = told["front"][told["chosen"]]["measured"]
    assert chosen["drop"] <= told["maxDrop"] == 0.02
    assert chosen["bytes"] == min(one["bytes"] for one in measured if one["drop"] <= 0.02)
    assert all(one["latencyMillis"] > 0 for one in (*measured, told["dense"], told["start"]))
    assert (told["rows"], told["dropOf"]) == (512, "accuracy")


def test_predicted_bytes_are_those_of_the_file_but_for_its_header_and_padding(told: Any) -> None:
    for point in told["front"]:
        if point["measured"]:
            assert abs(point["measured"]["bytes"] - point["predicted"]["bytes"]) < 1500


def test_the_picture_is_a_png(made: Compressed) -> None:
    assert made.reports["search.png"].startswith(PNG)


def test_the_log_tells_before_and_after_predicted_and_measured(made: Compressed) -> None:
    line = next(note for note in made.notes if "rows" in note)
    assert "of its bytes" in line
    assert "of dense's time" in line
    assert "predicted" in line


def test_the_same_search_by_size_gives_the_same_bytes(
    made: Compressed, teacher: nn.Module, material: Rows, tmp_path: Path
) -> None:
    again = compress(teacher, (SIZE,), context(material, teacher=teacher))
    for name, one in (("one", made), ("two", again)):
        write_weights(tmp_path / name, one.weights)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_smaller_module_is_searched_too(teacher: nn.Module, material: Rows, tmp_path: Path) -> None:
    short = Training(epochs=4, lr=0.05, batch_size=64)
    steps = (Step(prune=Prune(method="Channels", sparsity=0.5)), Step(distill=Distill(training=short)))
    search = Step(search=Search(objective="Size", max_drop=0.1))
    made = compress(teacher, (*steps, search), context(material, teacher=teacher))
    write_weights(tmp_path / "found", made.weights, structure=made.structure)
    loaded = load_variant(mlp(hidden=HIDDEN), tmp_path / "found")
    assert right(loaded, material) >= right(teacher, material) - 0.15
    told = json.loads(made.reports["search.json"])
    assert told["start"]["bytes"] < told["dense"]["bytes"]


def test_where_nothing_is_faster_a_search_by_latency_is_refused_with_the_times_that_were_measured(material: Rows) -> None:
    tiny = mlp(hidden=4).eval()
    told = r"nothing costs less than dense: .*int8 is left out in 3 of 3 layers, where it takes \d+\.\d\d to \d+\.\d\d times"
    with pytest.raises(CompressionError, match=told):
        compress(tiny, (Step(search=Search(max_drop=0.5)),), context(material, teacher=tiny))


def test_a_search_by_latency_takes_a_large_layer_in_fewer_bits_and_no_kind_that_is_slower(material: Rows) -> None:
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Linear(8, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 4)).eval()
    made = compress(wide, (Step(search=Search(max_drop=0.9, evaluations=2)),), context(material, teacher=wide))
    told = json.loads(made.reports["search.json"])
    assert told["choice"]["2.weight"] != "dense"
    for name, kind in told["choice"].items():
        assert told["layers"][name][kind]["millis"] <= told["layers"][name]["dense"]["millis"]
    assert told["front"][told["chosen"]]["measured"]["latencyMillis"] < told["start"]["latencyMillis"]


def test_values_have_their_relative_error_as_drop_and_a_budget_that_nothing_holds_is_refused_with_the_nearest() -> None:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 2)).eval()
    inputs = torch.randn(200, 8)
    material = Rows(inputs, module(inputs).detach() + 0.1)
    recipe = Squares()
    with pytest.raises(CompressionError, match=r"none of \d candidates loses at most 0 on \d+ rows; the nearest loses 0\.0\d+"):
        compress(module, (Step(search=Search(objective="Size", max_drop=0.0)),), context(material, teacher=module, recipe=recipe))
    made = compress(
        module, (Step(search=Search(objective="Size", max_drop=0.1)),), context(material, teacher=module, recipe=recipe)
    )
    told = json.loads(made.reports["search.json"])
    assert told["dropOf"] == "relativeError"
    assert 0 < told["front"][told["chosen"]]["measured"]["drop"] <= 0.1


def test_steps_before_that_lose_more_than_the_budget_are_told(teacher: nn.Module, material: Rows) -> None:
    step = Step(prune=Prune(method="Channels", sparsity=0.9))
    with pytest.raises(CompressionError, match=r"search.maxDrop: the steps before lose 0\.\d+ already, more than 0"):
        compress(teacher, (step, Step(search=Search(objective="Size", max_drop=0.0))), context(material, teacher=teacher))


@pytest.mark.parametrize(("rows", "seen"), [(1, 1), (7, 4), (40, 32), (768, 256)])
def test_rows_that_predict_are_not_among_those_that_are_evaluated(rows: int, seen: int) -> None:
    material = Rows(torch.arange(rows).float()[:, None], torch.arange(rows))
    parts = [torch.cat([targets for _, targets in part]) for part in split(material)]
    assert [len(part) for part in parts] == [seen, rows - seen]
    assert torch.equal(torch.cat(parts), torch.arange(rows))


def test_one_row_is_too_few() -> None:
    module, alone = mlp().eval(), Rows(torch.randn(1, 8), torch.zeros(1, dtype=torch.long))
    with pytest.raises(CompressionError, match="no rows to evaluate candidates on"):
        compress(module, (SIZE,), context(alone, teacher=module))
