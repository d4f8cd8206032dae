"""The recipe: a model, its data and its loss; everything else has a default.

The same class is used in every stage: training calls all of it, compression and serving rebuild the module with
`model()`, evaluation reads the held-out data with `dataset()`. It must therefore import only what those pods have,
and `model()` must depend on nothing but the hyperparameters.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from modelmill.datatypes import Array
from modelmill.failures import Fault
from modelmill.signature import Signature

OPTIMIZERS = {"SGD": torch.optim.SGD, "Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}


class RecipeError(Fault):
    """The recipe, or a hyperparameter, must be changed by its author."""

    reason = "RecipeError"
    fatal = True


class Recipe:
    """Subclass it, and name it in `spec.recipe.entrypoint` as `module:Class`.

    `hyperparameters` holds whole numbers and text, as the TrainingJob does: write `float(self.hyperparameters["dropout"])`.
    """

    def __init__(self, hyperparameters: Mapping[str, Any]) -> None:
        self.hyperparameters = hyperparameters

    def model(self) -> nn.Module:
        """The module with fresh weights; the trainer has seeded torch's generator."""
        raise NotImplementedError(f"{type(self).__name__}.model() must return the torch.nn.Module to train")

    def student(self) -> nn.Module:
        """A smaller module with the same inputs and outputs, for compression that begins with `migrate`; like `model()` else."""
        raise NotImplementedError(f"{type(self).__name__}.student() must return a smaller torch.nn.Module for migrate")

    def initialize(self, module: nn.Module) -> None:
        """Loads the weights to begin from, where training begins with its first step; the default keeps the fresh ones.

        Only prepare and train call it: other stages need neither those weights nor credentials for them.
        """

    def signature(self) -> Signature:
        """Inputs and outputs as clients see them; the batch is the first dimension, written -1."""
        raise NotImplementedError(f"{type(self).__name__}.signature() must return a modelmill.Signature")

    def service_signature(self) -> Signature:
        """Inputs and outputs as clients of the service see them: `signature()` unless the next two methods change them."""
        return self.signature()

    def preprocess(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """What the module is given for a batch of what clients sent, such as tokens of texts. Only serving calls it.

        Arrays by name, the batch first: as `service_signature` says in, as `signature` says out; elements of BYTES are
        `bytes`. Raise `BadInput` for what a client must change: a batch is then run row by row, and only that client told.
        Batches of one pod come one at a time, in any of its threads.
        """
        return inputs

    def postprocess(self, outputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """What clients get for a batch of the module's outputs, such as names of classes; elements of BYTES may be `str`."""
        return outputs

    def dataset(self, uri: str, *, training: bool) -> "Dataset[tuple[torch.Tensor, torch.Tensor]]":
        """A map-style dataset of (input, target) read from `uri`; `training` allows augmentation."""
        raise NotImplementedError(f"{type(self).__name__}.dataset() must return a torch Dataset of (input, target)")

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean loss of a batch; cross entropy of logits [N, classes] and classes [N] unless overridden."""
        return nn.functional.cross_entropy(outputs, targets)

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """From the hyperparameters `optimizer` (SGD, Adam, AdamW), `lr`, `weightDecay`, `momentum` (SGD)."""
        name = str(self.hyperparameters.get("optimizer", "AdamW"))
        if name not in OPTIMIZERS:
            raise RecipeError(
                f"hyperparameters.optimizer: {name!r} is not one of {', '.join(OPTIMIZERS)}; override Recipe.optimizer()"
            )
        options: dict[str, Any] = {"lr": self._fraction("lr", 1e-3), "weight_decay": self._fraction("weightDecay", 0.0)}
        if name == "SGD":
            options["momentum"] = self._fraction("momentum", 0.0)
        optimizer: torch.optim.Optimizer = OPTIMIZERS[name](parameters, **options)
        return optimizer

    def scheduler(self, optimizer: torch.optim.Optimizer, *, total_steps: int) -> torch.optim.lr_scheduler.LRScheduler | None:
        """Stepped after every optimizer step; None (the default) keeps the learning rate."""
        return None

    def _fraction(self, name: str, default: float) -> float:
        value = self.hyperparameters.get(name, default)
        try:
            return float(value)
        except (TypeError, ValueError):
            raise RecipeError(f"hyperparameters.{name}: {value!r} must be a number, for example 0.001") from None
