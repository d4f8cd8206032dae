"""The evaluate stage on a real registry and real processes, with a model small enough to know its figures."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelmill import storage, workspace
from modelmill.artifact import publish
from modelmill.compress import stage as compress_stage
from modelmill.contract import codec
from modelmill.contract.jobfile import Data, Gate, JobFile
from modelmill.contract.result import MAX_BYTES, StageResult, VariantResult, read, write
from modelmill.evaluate import stage
from modelmill.evaluate.errors import EvaluationError, TestDataNotFound
from tests.unit.evaluate.helpers import DENSE, INT8, accuracy_gate, job, weights, write_data, write_recipe

pytestmark = pytest.mark.usefixtures("torch_forkserver")

STABLE = accuracy_gate(no_worse_than="stable")


def account(done: JobFile) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(storage.read_bytes(workspace.evaluation_uri(done)))
    return found


def published(evaluated: JobFile) -> None:
    stage.run(evaluated)
    result = publish.run(replace(evaluated, stage="publish", passed=tuple(variant.name for variant in evaluated.variants)))
    assert result.ok, result.message


def test_every_variant_is_measured_judged_and_written_down(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    asked = job(tmp_path, variants=(DENSE, INT8), metrics=(), gates=(accuracy_gate(min=0.9), STABLE))
    compress_stage.run(replace(asked, stage="compress", variants=(INT8,)))
    result = stage.run(asked)
    assert result.ok
    assert [(v.name, v.passed, v.reason) for v in result.variants] == [("dense", True, None), ("int8", True, None)]
    assert [set(v.metrics) for v in result.variants] == [{"accuracy", "recall", "f1", "auc", "loss"}] * 2
    assert all(v.metrics["accuracy"] == 1.0 and (v.latency_millis or 0) > 0 for v in result.variants)
    assert [v.bytes for v in result.variants] == [storage.size(workspace.variant_uri(asked, name)) for name in ("dense", "int8")]
    found = account(asked)
    assert found["rows"] == 30
    assert [codec.from_dict(VariantResult, each) for each in found["variants"]] == list(result.variants)
    assert all(each["latency"]["low"] <= each["latencyMillis"] <= each["latency"]["high"] for each in found["variants"])
    assert read(codec.dumps(result)) == result
    lines = [line.split() for line in caplog.messages]
    assert ["variant", "bytes", "accuracy", "recall", "f1", "auc", "loss", "latency", "ms", "(10-90%)", "verdict"] in lines
    assert [line[2] for line in lines if line[-1] == "passed"] == ["1.0000", "1.0000"]


def test_a_worse_model_is_refused_with_numbers(tmp_path: Path) -> None:
    published(job(tmp_path))
    result = stage.run(job(tmp_path, uid="u2", trained=weights(right=1), gates=(STABLE,)))
    assert [v.passed for v in result.variants] == [False]
    told = result.variants[0].reason or ""
    assert told == "accuracy 0.366667 is worse than 1 of version 1 (dense) in channel 'stable'"
    assert told in (result.message or "")


def test_the_same_held_out_data_need_no_second_measurement(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    published(job(tmp_path))
    caplog.set_level("INFO")
    assert stage.run(job(tmp_path, uid="u2", gates=(STABLE,))).variants[0].passed
    assert "figures of its own evaluation" in caplog.text
    assert "measured again" not in caplog.text


def test_on_other_data_the_old_version_is_measured_again_by_its_own_code(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = write_recipe(tmp_path / "old", layer="former")
    published(job(tmp_path, trained=weights(layer="former"), recipe_path=str(old)))
    today = job(tmp_path, uid="u2", gates=(STABLE,), data=Data(test=write_data(tmp_path / "new.json", seed=1)))
    caplog.set_level("INFO")
    assert stage.run(today).variants[0].passed
    assert "measured again" in caplog.text
    baseline = account(today)["variants"][0]["baselines"]["stable"]
    assert (baseline["version"], baseline["variant"], baseline["metrics"]["accuracy"]) == (1, "dense", 1.0)


def test_a_variant_is_compared_with_its_namesake_else_with_dense(tmp_path: Path) -> None:
    first = job(tmp_path, variants=(DENSE, INT8))
    compress_stage.run(replace(first, stage="compress", variants=(INT8,)))
    published(first)
    other = replace(INT8, name="other")
    asked = job(tmp_path, uid="u2", variants=(INT8, other), gates=(STABLE,))
    for variant in asked.variants:
        compress_stage.run(replace(asked, stage="compress", variants=(variant,)))
    stage.run(asked)
    assert [each["baselines"]["stable"]["variant"] for each in account(asked)["variants"]] == ["int8", "dense"]


def test_an_old_version_that_was_tampered_with_fails_the_gate_and_says_so(tmp_path: Path) -> None:
    published(job(tmp_path))
    path = tmp_path / "registry/team/tiny/1/dense.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    data = Data(test=write_data(tmp_path / "new.json", seed=1))
    result = stage.run(job(tmp_path, uid="u2", gates=(STABLE,), data=data))
    assert not result.variants[0].passed
    assert "has no value to compare with" in (result.variants[0].reason or "")
    assert "not those that were published" in (result.variants[0].reason or "")


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ended with signal SIGSEGV and no result"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed: out of memory is likely"),
        ("os._exit(3)", "ended with exit code 3 and no result"),
        ("raise ZeroDivisionError('in the recipe')", "ZeroDivisionError: in the recipe"),
    ],
)
def test_a_recipe_that_dies_fails_its_variant_and_not_the_evaluator(tmp_path: Path, trouble: str, told: str) -> None:
    result = stage.run(job(tmp_path, recipe_path=str(write_recipe(tmp_path / "bad", trouble=trouble))))
    assert result.ok
    assert not result.variants[0].passed
    assert told in (result.variants[0].reason or "")


def test_a_damaged_variant_fails_and_the_others_go_on(tmp_path: Path) -> None:
    asked = job(tmp_path, variants=(INT8, DENSE, replace(INT8, name="gone")))
    storage.write_bytes(workspace.variant_uri(asked, "int8"), b"garbage!")
    result = stage.run(asked)
    assert [v.passed for v in result.variants] == [False, True, False]
    assert "BadArtifact: " in (result.variants[0].reason or "")
    assert "gone.safetensors" in (result.variants[2].reason or "")
    assert result.message is not None and result.message.startswith("passed: dense; int8: it could not be measured")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"entrypoint": None}, "needs recipe.entrypoint"),
        ({"variants": ()}, "nothing to evaluate"),
        ({"metrics": ("speed",)}, "metric 'speed' is not known; use accuracy, recall, f1, auc, loss"),
        ({"gates": (Gate(metric="f1"),)}, r"gates\[0\]: f1 has no bound"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_with_a_sentence(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(EvaluationError, match=told):
        stage.run(job(tmp_path, **changes))


def test_no_held_out_data_are_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="needs held-out data"):
        stage.run(replace(job(tmp_path), data=Data()))


def test_held_out_data_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(TestDataNotFound, match=r"nothing at file:///nowhere/test.npz"):
        stage.run(job(tmp_path, data=Data(test="file:///nowhere/test.npz")))


def test_a_result_with_many_variants_still_fits_a_termination_message(tmp_path: Path) -> None:
    variants = tuple(VariantResult(name=f"v{i}", reason="x" * 100) for i in range(16))
    write(StageResult(stage="evaluate", ok=True, message="y" * 9000, variants=variants), path=str(tmp_path / "message"))
    assert (tmp_path / "message").stat().st_size <= MAX_BYTES
