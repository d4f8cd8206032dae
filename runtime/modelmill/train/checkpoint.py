"""Checkpoints in the job's workspace: the newest complete one is where a restarted gang goes on.

    checkpoints/<step>/  model.safetensors  optimizer.safetensors  state.json  COMPLETE

COMPLETE is written last and holds the size and SHA-256 of the others. A checkpoint without it, or one whose bytes do
not match, is as good as absent: the one before it is used. Rank 0 writes while its peers wait at the next collective,
so that a run never gets further than one interval beyond what is safe.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from modelmill import storage
from modelmill.failures import Fault
from modelmill.train import tree

COMPLETE = "COMPLETE"
_MODEL, _OPTIMIZER, _STATE = "model.safetensors", "optimizer.safetensors", "state.json"


class CheckpointUnfit(Fault):
    """A complete checkpoint of another model: the recipe changed while its job ran."""

    reason = "CheckpointUnfit"
    fatal = True


class _Damaged(Exception):
    """The bytes of a checkpoint are not what COMPLETE says."""


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainee:
    """Everything of a run that its position alone does not determine."""

    model: Stateful
    optimizer: Stateful
    scheduler: Stateful | None


def save(trainee: Trainee, *, folder: str, step: int, history: dict[str, Any], keep: int) -> None:
    """Writes the checkpoint of `step` below `folder`, then removes all but the newest `keep`."""
    tensors: dict[str, torch.Tensor] = {}
    state = {
        "step": step,
        "optimizer": tree.flatten(trainee.optimizer.state_dict(), tensors),
        "scheduler": tree.flatten(trainee.scheduler.state_dict() if trainee.scheduler else None, tensors, at="scheduler"),
        "history": history,
    }
    files = {
        _MODEL: save_tensors(plain_tensors(trainee.model)),
        _OPTIMIZER: save_tensors(tensors),
        _STATE: json.dumps(state).encode(),
    }
    here = storage.join(folder, str(step))
    # A leftover of a rank that died while writing must not count as complete while its files are replaced.
    storage.remove(storage.join(here, COMPLETE))
    for name, content in files.items():
        storage.write_bytes(storage.join(here, name), content)
    marks = {name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in files.items()}
    storage.write_bytes(storage.join(here, COMPLETE), json.dumps({"files": marks}).encode())
    _retire(folder, newest=step, keep=keep)


def plain_tensors(model: Stateful) -> dict[str, torch.Tensor]:
    """The model's state on the CPU, each tensor with memory of its own."""
    tensors: dict[str, torch.Tensor] = {}
    tree.flatten(dict(model.state_dict()), tensors)
    return tensors


def newest(folder: str) -> int | None:
    """Step of the newest checkpoint that is complete and undamaged."""
    for step in sorted(_steps(folder), reverse=True):
        try:
            _read(folder, step)
        except _Damaged as error:
            print(f"checkpoint {step} is not usable ({error}); trying the one before", flush=True)
        else:
            return step
    return None


def load(trainee: Trainee, *, folder: str, step: int) -> dict[str, Any]:
    """Puts the checkpoint's state into the trainee; returns the history."""
    files = _read(folder, step)
    state = json.loads(files[_STATE])
    tensors = load_tensors(files[_OPTIMIZER])
    try:
        trainee.model.load_state_dict(load_tensors(files[_MODEL]))
        trainee.optimizer.load_state_dict(tree.restore(state["optimizer"], tensors))
        if trainee.scheduler is not None:
            trainee.scheduler.load_state_dict(tree.restore(state["scheduler"], tensors))
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise CheckpointUnfit(
            f"the checkpoint of step {step} does not fit this recipe: {error}; a job's recipe must not change while it runs"
        ) from error
    history: dict[str, Any] = state["history"]
    return history


def _read(folder: str, step: int) -> dict[str, bytes]:
    """The checkpoint's files, verified."""
    here = storage.join(folder, str(step))
    files: dict[str, bytes] = {}
    try:
        marks = json.loads(storage.read_bytes(storage.join(here, COMPLETE)))["files"]
        for name in (_MODEL, _OPTIMIZER, _STATE):
            files[name] = storage.read_bytes(storage.join(here, name))
            if hashlib.sha256(files[name]).hexdigest() != marks[name]["sha256"]:
                raise _Damaged(f"{name} does not match its digest")
    except storage.NotFound as error:
        raise _Damaged(f"incomplete: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _Damaged(f"{COMPLETE} cannot be read: {error}") from error
    return files


def _steps(folder: str) -> list[int]:
    return [int(name) for name in storage.children(folder) if name.isdecimal()]


def _retire(folder: str, *, newest: int, keep: int) -> None:
    older = sorted((step for step in _steps(folder) if step < newest), reverse=True)
    for step in older[max(0, keep - 1) :]:
        here = storage.join(folder, str(step))
        # The marker first: a removal that is cut short leaves an incomplete checkpoint, not a damaged one.
        storage.remove(storage.join(here, COMPLETE))
        storage.remove_tree(here)
