"""What the prepare stage finds before any GPU is held, and how a stage tells it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelmill import stage
from modelmill.contract import codec
from modelmill.contract.jobfile import Data, JobFile
from tests.unit.train import gang

HYPERPARAMETERS = {"rows": 40, "batchSize": 8, "epochs": 2}


def told(folder: Path, recipe: str = "Plain", **hyperparameters: object) -> JobFile:
    file = gang.job(folder, recipe=recipe, hyperparameters={**HYPERPARAMETERS, **hyperparameters})
    return replace(file, stage="prepare")


def test_a_sound_job_is_ready_to_train(tmp_path: Path) -> None:
    file = replace(told(tmp_path), data=Data(train="file:///x", validation_fraction=0.1))
    outcome = stage.perform(codec.dumps(file))
    assert outcome.ok, outcome.message
    assert outcome.details == {"rows": 36, "steps": 10, "parameters": 146, "validationRows": 4}
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "the check left something in the registry"


FAULTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "a class that the module lacks": ({"entrypoint": "noisy:Missing"}, "RecipeError", "no recipe 'Missing'; it has Plain, Noisy"),
    "a module that is not there": ({"entrypoint": "nothing:Plain"}, "ImportError", "No module named 'nothing'"),
    "an entrypoint without class": ({"entrypoint": "noisy"}, "RecipeError", "must be written module:Class"),
    "a module with a syntax error": ({"entrypoint": "slip:Recipe"}, "SyntaxError", "slip.py, line 1"),
    "a folder that is not there": ({"recipe_path": "/nowhere"}, "RecipeError", "the folder /nowhere is not there"),
    "a signature that is not kept": ({"entrypoint": "noisy:Broken"}, "RecipeError", "promises [-1, 2], got [2, 3]"),
    "data that is not there": (
        {"entrypoint": "noisy:Hungry", "data": Data(train="file:///no/rows.npz")}, "DataNotFound", "file:///no/rows.npz",
    ),
    "no data at all": ({"data": Data()}, "DataNotFound", "data.train: no URI"),
    "no rows": ({"hyperparameters": {**HYPERPARAMETERS, "rows": 0}}, "DataUnfit", "has no rows"),
    "a fraction that leaves nothing": (
        {"data": Data(train="file:///x", validation_fraction=0.001)}, "DataUnfit", "0.001 of 40 rows",
    ),
    "no end": ({"hyperparameters": {"rows": 40}}, "RecipeError", "set epochs or maxSteps"),
    "a batch of nothing": (
        {"hyperparameters": {**HYPERPARAMETERS, "batchSize": 0}}, "RecipeError", "hyperparameters.batchSize: 0",
    ),
    "an unknown precision": (
        {"hyperparameters": {**HYPERPARAMETERS, "precision": "fp8"}}, "RecipeError", "'fp8' is not one of fp32, bf16",
    ),
    "an unknown optimizer": (
        {"hyperparameters": {**HYPERPARAMETERS, "optimizer": "LBFGS"}}, "RecipeError", "'LBFGS' is not one of SGD",
    ),
    "a rate that is no number": (
        {"hyperparameters": {**HYPERPARAMETERS, "lr": "fast"}}, "RecipeError", "hyperparameters.lr: 'fast'",
    ),
    "a script that is not there": ({"entrypoint": None, "script": ("run.py",)}, "RecipeError", "there is no file run.py"),
    "neither recipe nor script": ({"entrypoint": None}, "RecipeError", "set an entrypoint, or a script"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_fatal_and_named(tmp_path: Path, fault: str) -> None:
    changes, reason, words = FAULTS[fault]
    if "slip" in str(changes.get("entrypoint")):
        (tmp_path / "slip.py").write_text("class Recipe(:\n")
        changes = {**changes, "recipe_path": str(tmp_path)}
    outcome = stage.perform(codec.dumps(replace(told(tmp_path), **changes)))
    assert (outcome.ok, outcome.fatal, outcome.stage) == (False, True, "prepare")
    assert outcome.reason == reason
    assert words in (outcome.message or "")


def test_a_script_that_is_there_is_ready(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text("print('hello')")
    file = replace(told(tmp_path), entrypoint=None, recipe_path=str(tmp_path), script=("run.py", "--fast"))
    assert stage.perform(codec.dumps(replace(file, data=Data()))).ok


@pytest.mark.parametrize(
    "text", ["", "[]", json.dumps({"stage": "prepare"}), json.dumps({**codec.to_dict(told(Path("/x"))), "stage": "dance"})]
)
def test_a_job_file_that_makes_no_sense_is_fatal(text: str) -> None:
    outcome = stage.perform(text)
    assert (outcome.ok, outcome.fatal, outcome.reason) == (False, True, "ContractError")
