"""What only a GPU can show: `make test-gpu` on a machine that has one. `make test` does not run this folder.

Training over nccl, resuming it, serving dense and int8 weights from the device.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from modelmill import storage, workspace
from modelmill.compress import stage as compress
from modelmill.compress.apply import load_variant
from modelmill.compress.device import to_device
from modelmill.contract import codec, jobfile, names
from modelmill.contract.steps import Quantize, Step
from modelmill.recipe.load import load_recipe
from tests.gpu.timing import micros

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
Figures = dict[str, Any]


def job(folder: Path, **changes: Any) -> jobfile.JobFile:
    told = {"optimizer": "AdamW", "lr": "0.003", "batchSize": 64, "epochs": 30}
    settled = {"stage": "train", "hyperparameters": told, "checkpoint": jobfile.Checkpoint(every_steps=100), **changes}
    return jobfile.JobFile(
        namespace="default", name="digits", uid="u1", model="digits", registry=f"file://{folder}/registry",
        recipe_path=str(DIGITS), entrypoint="recipe:Digits", data=jobfile.Data(train=f"file://{DIGITS}/train.npz"), **settled,
    )  # fmt: skip


def train(file: jobfile.JobFile, folder: Path) -> str:
    """One rank, as the launcher would start it; returns its log."""
    ranks = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1, "MASTER_PORT": 29511}
    environment = {**os.environ, **{name: str(value) for name, value in ranks.items()}, "MASTER_ADDR": "127.0.0.1"}
    environment |= {names.ENV_JOB: codec.dumps(file), names.ENV_PROGRESS_FILE: str(folder / "progress.json")}
    environment |= {names.ENV_ERROR_FILE: str(folder / "error.json")}
    done = subprocess.run(
        [sys.executable, "-m", "modelmill.train.main"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, figures: Figures) -> jobfile.JobFile:
    folder = tmp_path_factory.mktemp("trained")
    begun = time.perf_counter()
    train(job(folder), folder)
    figures["train_digits_seconds"] = round(time.perf_counter() - begun, 2)
    return job(folder)


def held_out() -> tuple[torch.Tensor, torch.Tensor]:
    arrays = numpy.load(DIGITS / "test.npz", allow_pickle=False)
    images = torch.from_numpy(arrays["x"]).float().div(16).unsqueeze(1)
    return images.cuda(), torch.from_numpy(arrays["y"]).long().cuda()


def module(file: jobfile.JobFile, uri: str) -> torch.nn.Module:
    fresh = load_recipe(str(DIGITS), "recipe:Digits", file.hyperparameters).model()
    loaded = load_variant(fresh, Path(uri.removeprefix("file://")))
    to_device(loaded, torch.device("cuda"))
    return loaded


def accuracy(model: torch.nn.Module) -> float:
    images, labels = held_out()
    with torch.inference_mode():
        return float((model(images).argmax(dim=1) == labels).float().mean())


def test_a_gpu_trains_over_nccl_as_well_as_a_cpu(trained: jobfile.JobFile, figures: Figures) -> None:
    figures["dense_accuracy"] = accuracy(module(trained, workspace.dense_uri(trained)))
    assert figures["dense_accuracy"] >= 0.97


def test_a_run_on_a_gpu_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    half = job(tmp_path, hyperparameters={"batchSize": 64, "maxSteps": 150, "lr": "0.003"})
    train(half, tmp_path)
    storage.remove(workspace.dense_uri(half))
    newest = max(storage.children(workspace.checkpoints_uri(half)), key=int)
    storage.remove(workspace.checkpoints_uri(half) + f"/{newest}")
    assert "resumed from the checkpoint of step 100" in train(half, tmp_path)


def test_int8_on_a_gpu_answers_as_dense_does(trained: jobfile.JobFile, figures: Figures) -> None:
    steps = (Step(quantize=Quantize()),)
    result = compress.run(codec.loads(jobfile.JobFile, codec.dumps(job_for_int8(trained, steps))))
    assert result.ok, result.message
    dense, int8 = (module(trained, uri) for uri in (workspace.dense_uri(trained), workspace.variant_uri(trained, "int8")))
    figures["int8_accuracy"] = accuracy(int8)
    assert figures["int8_accuracy"] >= figures["dense_accuracy"] - 0.01
    images, _ = held_out()
    figures["forward_360_rows_micros"] = {"dense fp32": micros(lambda: dense(images)), "int8": micros(lambda: int8(images))}


def job_for_int8(trained: jobfile.JobFile, steps: tuple[Step, ...]) -> jobfile.JobFile:
    folder = Path(trained.registry.removeprefix("file://")).parent
    return job(folder, stage="compress", variants=(jobfile.Variant(name="int8", steps=steps),))
