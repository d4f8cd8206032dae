"""Whole runs of real ranks over gloo: what one worker computes two compute too, and an accident changes nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load as load_tensors

from modelmill import storage, workspace
from modelmill.contract import codec
from modelmill.contract.jobfile import JobFile
from modelmill.contract.report import Failure, Progress
from tests.unit.train import gang

pytestmark = pytest.mark.usefixtures("torch_forkserver")


def story(file: JobFile) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(storage.read_bytes(workspace.training_uri(file)))
    return found


def weights(file: JobFile) -> bytes:
    return storage.read_bytes(workspace.dense_uri(file))


def failure(folder: Path, rank: int) -> Failure:
    return codec.loads(Failure, (folder / f"error-{rank}.json").read_text())


def test_two_workers_and_one_have_the_same_loss_at_each_of_100_steps(tmp_path: Path) -> None:
    """31 rows in batches of 10: shares are unequal, and in an epoch's last step rank 1 has none."""
    told = {"rows": 31, "batchSize": 10, "maxSteps": 100, "optimizer": "SGD", "lr": "0.1", "momentum": "0.9"}
    files, started = [], []
    for world in (1, 2):
        folder = tmp_path / str(world)
        folder.mkdir()
        files.append(gang.job(folder, recipe="Plain", hyperparameters=told))
        started.append(gang.Ranks(files[-1], world=world, folder=folder))
    assert [ranks.wait() for ranks in started] == [[0], [0, 0]]
    one, two = ([loss for _, loss in story(file)["history"]["loss"]] for file in files)
    assert len(one) == len(two) == 100
    assert two == pytest.approx(one, rel=1e-4)
    assert one[-1] < one[0] / 2


def test_a_run_with_accidents_ends_with_the_weights_of_an_unbroken_one_bit_for_bit(tmp_path: Path) -> None:
    told = {"rows": 120, "batchSize": 16, "epochs": 6, "optimizer": "AdamW"}
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    files = {}
    for folder in (unbroken, broken):
        folder.mkdir()
        files[folder] = gang.job(folder, recipe="Noisy", hyperparameters=told, validation_fraction=0.1)
    whole = gang.Ranks(files[unbroken], world=2, folder=unbroken)
    # Killed at step 25: the checkpoint of step 20 is the newest.
    codes = gang.Ranks(files[broken], world=2, folder=broken, accident="kill rank 1").wait()
    assert codes == [1, -9]
    assert failure(broken, 0).reason == "PeerLost"
    assert storage.children(workspace.checkpoints_uri(files[broken])) == ["10", "20"]
    assert gang.Ranks(files[broken], world=2, folder=broken).wait() == [0, 0]
    assert whole.wait() == [0, 0]
    assert weights(files[broken]) == weights(files[unbroken])
    resumed, straight = story(files[broken])["history"], story(files[unbroken])["history"]
    assert resumed["resumed"] == [20]
    assert straight["resumed"] == []
    assert resumed["loss"] == straight["loss"]
    assert resumed["validation"] == straight["validation"]
    assert [entry["epoch"] for entry in straight["validation"]] == list(range(6))
    progress = codec.loads(Progress, (broken / "progress-0.json").read_text())
    assert (progress.step, progress.total_steps, progress.checkpoint_step) == (42, 42, 42)


def test_a_run_begins_from_the_weights_that_the_recipe_loads_and_a_resumed_one_from_its_checkpoint(tmp_path: Path) -> None:
    found = []
    for begin, steps in (("0.5", 10), ("0.75", 12)):
        told = {"rows": 16, "batchSize": 8, "maxSteps": steps, "optimizer": "SGD", "lr": "0", "begin": begin}
        file = gang.job(tmp_path, recipe="Warm", hyperparameters=told)
        assert gang.Ranks(file, world=1, folder=tmp_path).wait() == [0]
        found.append({float(value) for tensor in load_tensors(weights(file)).values() for value in tensor.flatten()})
    assert story(file)["history"]["resumed"] == [10]
    assert found == [{0.5}, {0.5}]


def test_all_ranks_save_and_stop_when_one_of_them_is_asked_to(tmp_path: Path) -> None:
    file = gang.job(tmp_path, recipe="Noisy", hyperparameters={"rows": 120, "batchSize": 16, "epochs": 6})
    assert gang.Ranks(file, world=2, folder=tmp_path, accident="end rank 1").wait() == [1, 1]
    told = failure(tmp_path, 0)
    assert (told.reason, told.fatal) == ("Stopped", False)
    (step,) = (int(name) for name in storage.children(workspace.checkpoints_uri(file)) if name not in ("10", "20"))
    assert 25 <= step <= 27


def test_a_loss_that_is_not_a_number_ends_training_with_advice(tmp_path: Path) -> None:
    file = gang.job(tmp_path, recipe="Noisy", hyperparameters={"rows": 40, "batchSize": 8, "epochs": 2})
    assert gang.Ranks(file, world=1, folder=tmp_path, accident="explode").wait() == [64]
    told = failure(tmp_path, 0)
    assert (told.reason, told.fatal) == ("NaNLoss", True)
    assert "step 3" in told.message
    assert "hyperparameters.lr" in told.message
