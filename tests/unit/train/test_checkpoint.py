"""Checkpoints on a volume: nothing incomplete or damaged is ever resumed from, and state survives exactly."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from modelmill import storage
from modelmill.train import checkpoint, tree
from modelmill.train.checkpoint import CheckpointUnfit, Trainee

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
states = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(st.characters(exclude_characters="$"), max_size=5), inner, max_size=3)
        | st.dictionaries(st.integers(), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(state=states)
def test_any_state_of_numbers_text_and_containers_is_restored(state: object) -> None:
    tensors: dict[str, torch.Tensor] = {}
    assert tree.restore(tree.flatten(state, tensors), tensors) == state


def test_a_state_that_cannot_be_saved_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"'0\.schedule', a function"):
        tree.flatten([{"schedule": lambda step: step}], {}, at="")


OPTIMIZERS = {
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
}
SCHEDULERS = {
    "none": lambda optimizer: None,
    "OneCycleLR": lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=20),
    "MultiStepLR": lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[2, 4]),
}


def made(optimizer: str = "AdamW", scheduler: str = "none", *, width: int = 3) -> tuple[nn.Module, Trainee]:
    model = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))
    chosen = OPTIMIZERS[optimizer](model.parameters())
    return model, Trainee(model=model, optimizer=chosen, scheduler=SCHEDULERS[scheduler](chosen))


def stepped(model: nn.Module, trainee: Trainee, steps: int) -> None:
    for step in range(steps):
        model(torch.full((4, 2), 0.5 + step) * torch.arange(4).unsqueeze(1)).square().sum().backward()
        trainee.optimizer.step()  # type: ignore[attr-defined]  # any Stateful, here a real one
        if trainee.scheduler is not None:
            trainee.scheduler.step()  # type: ignore[attr-defined]  # any Stateful, here a real one


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_restored_trainee_goes_on_exactly_as_the_saved_one(tmp_path: Path, optimizer: str, scheduler: str) -> None:
    folder = f"file://{tmp_path}"
    model, trainee = made(optimizer, scheduler)
    stepped(model, trainee, 3)
    checkpoint.save(trainee, folder=folder, step=3, history={"loss": [[1, 0.1]]}, keep=2)
    again, restored = made(optimizer, scheduler)
    assert checkpoint.load(restored, folder=folder, step=3) == {"loss": [[1, 0.1]]}
    for each, part in ((model, trainee), (again, restored)):
        each.zero_grad()
        stepped(each, part, 3)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def saved(folder: str, *steps: int, keep: int = 5) -> None:
    _, trainee = made()
    for step in steps:
        checkpoint.save(trainee, folder=folder, step=step, history={}, keep=keep)


def test_the_newest_complete_checkpoint_is_found(tmp_path: Path) -> None:
    folder = f"file://{tmp_path}"
    assert checkpoint.newest(folder) is None
    saved(folder, 9, 10)
    assert checkpoint.newest(folder) == 10


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "COMPLETE"])
@pytest.mark.parametrize("harm", ["removed", "cut short", "changed"])
def test_a_checkpoint_with_a_harmed_file_is_passed_over(tmp_path: Path, name: str, harm: str) -> None:
    folder = f"file://{tmp_path}"
    saved(folder, 10, 20)
    path = tmp_path / "20" / name
    content = path.read_bytes()
    if harm == "removed":
        path.unlink()
    else:
        path.write_bytes(content[:-7] if harm == "cut short" else content[:-1] + bytes([content[-1] ^ 1]))
    assert checkpoint.newest(folder) == 10


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    folder = f"file://{tmp_path}"
    saved(folder, 8, 9, 10, 11, keep=2)
    assert storage.children(folder) == ["10", "11"]


def test_a_checkpoint_of_another_model_is_refused_with_advice(tmp_path: Path) -> None:
    folder = f"file://{tmp_path}"
    saved(folder, 5)
    _, other = made(width=4)
    with pytest.raises(CheckpointUnfit, match="step 5 does not fit this recipe"):
        checkpoint.load(other, folder=folder, step=5)
