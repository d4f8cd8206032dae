"""Training of a module that a step has changed: the one loop under fine-tuning, distillation and training with a grid.

Each step takes the next batch of the material, asks `loss` for one number, and moves the weights against its gradient. The
same seed, material and number of threads give the same weights. Weights and biases of one dimension (norms, biases) have no
weight decay. The module is left in inference mode, and with the flags of its parameters as they were.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn

from modelmill.compress.draft import Batch, Context, Mask
from modelmill.compress.errors import CompressionError
from modelmill.compress.memory_format import channels_last

Loss = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]
"""Of (module, inputs, targets): the mean over the batch, a scalar."""
Optimizer = Literal["SGD", "AdamW"]
Schedule = Literal["OneCycle", "Cosine", "Constant"]
Precision = Literal["fp32", "bf16"]

SAY_SECONDS = 10.0
_WARM_SHARE, _WARM_FACTOR = 0.3, 25.0
_NORMS = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How long, how fast. Ends after `epochs` of the material (a fraction is allowed) or `max_steps`, whichever is first."""

    epochs: float = 1.0
    lr: float = 0.01
    """The highest learning rate that the schedule reaches."""
    batch_size: int = 128
    optimizer: Optimizer = "SGD"
    momentum: float = 0.9
    """Of SGD, in Nesterov's form."""
    weight_decay: float = 5e-4
    schedule: Schedule = "OneCycle"
    max_steps: int | None = None
    clip: float | None = None
    """The largest norm of all gradients together; longer ones are scaled down to it (Pascanu et al. 2013)."""
    freeze_norms: bool = False
    """Batch norms keep their running statistics, and normalise by them, as in inference."""
    precision: Precision = "fp32"
    """bf16: products in bfloat16 (autocast), weights and their updates in float32. Slow on a CPU without instructions for it."""

    def __post_init__(self) -> None:
        for name, known in (("optimizer", Optimizer), ("schedule", Schedule), ("precision", Precision)):
            if getattr(self, name) not in get_args(known):
                raise CompressionError(f"training.{name}: {getattr(self, name)!r} is not one of {', '.join(get_args(known))}")
        for name in ("epochs", "lr", "batch_size", "max_steps", "clip"):
            _check(name, getattr(self, name), wanted="above 0", holds=lambda value: value > 0)
        _check("momentum", self.momentum, wanted="from 0 to below 1", holds=lambda value: 0 <= value < 1)
        _check("weight_decay", self.weight_decay, wanted="at least 0", holds=lambda value: value >= 0)

    def steps(self, *, rows: int) -> int:
        steps = math.ceil(self.epochs * math.ceil(rows / self.batch_size))
        return max(1, steps if self.max_steps is None else min(steps, self.max_steps))


def _check(name: str, value: float | None, *, wanted: str, holds: Callable[[float], bool]) -> None:
    if value is not None and not (math.isfinite(value) and holds(value)):
        raise CompressionError(f"training.{name}: {value} must be {wanted}")


def rate(training: Training, *, step: int, total: int) -> float:
    """The learning rate of a step, counted from 0.

    Cosine: from lr to 0 along half a cosine (Loshchilov and Hutter 2017, without restarts). OneCycle: up from lr / 25 during the
    first 30 %, then as Cosine (Smith and Topin 2018; the momentum stays).
    """
    if training.schedule == "Constant":
        return training.lr
    warm = int(total * _WARM_SHARE) if training.schedule == "OneCycle" else 0
    if step < warm:
        low = training.lr / _WARM_FACTOR
        return low + (training.lr - low) * _rising(step / warm)
    return training.lr * (1 - _rising((step - warm) / (total - warm)))


def _rising(share: float) -> float:
    return (1 - math.cos(math.pi * share)) / 2


def task_loss(context: Context) -> Loss:
    """The recipe's own loss, on the targets of the data."""
    return lambda module, inputs, targets: context.recipe.loss(module(inputs), targets)


def tune(
    module: nn.Module,
    context: Context,
    training: Training,
    *,
    loss: Loss,
    label: str,
    after_step: Callable[[int], None] | None = None,
    also: nn.Module | None = None,
) -> list[float]:
    """Trains `module` in place, and `also` with it; returns the loss of each step.

    `after_step(step)` is called with steps counted from 1, once the weights have moved: masks are held there. Parameters that
    are frozen stay so, unless all are, as after loading: then all are trained. `context.say` gets a line every 10 s.
    Raises CompressionError when the loss is not finite, naming step and lr, and when the material has no batch to train on.
    """
    total = training.steps(rows=context.material.rows())
    parts = nn.ModuleList([module] if also is None else [module, also])
    history: list[float] = []
    sample = context.material.calibration(rows=1)[0][0].to(next(parts.parameters()).device)
    with _trained(parts, training), channels_last(module, sample), torch.random.fork_rng(devices=_cuda(parts)):
        torch.manual_seed(context.seed)
        optimizer = _optimizer(parts, training)
        progress = _Progress(label=label, total=total, say=context.say)
        for step, (inputs, targets) in enumerate(_batches(context, training, total=total, least=_least(parts))):
            for group in optimizer.param_groups:
                group["lr"] = rate(training, step=step, total=total)
            with _precision(parts, training):
                value = loss(module, *_placed(inputs, targets, parts))
            history.append(_finite(value, step=step + 1, label=label, lr=optimizer.param_groups[0]["lr"]))
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            if training.clip is not None:
                nn.utils.clip_grad_norm_(parts.parameters(), training.clip)
            optimizer.step()
            if after_step is not None:
                after_step(step + 1)
            progress.step(step + 1, loss=history[-1], rows=len(inputs))
    return history


def hold(module: nn.Module, masks: dict[str, Mask]) -> Callable[[int], None]:
    """An `after_step` that sets what is not kept to 0 again, and does so at once. Masks go by the name of the weight."""
    known = dict(module.named_parameters(remove_duplicate=False))
    for name, mask in masks.items():
        if name not in known or known[name].shape != mask.kept.shape:
            found = list(known[name].shape) if name in known else "no such weight"
            raise CompressionError(f"mask {name!r}: is for a weight {list(mask.kept.shape)}, the module has {found}")
    held = [(known[name], mask.kept.to(known[name])) for name, mask in masks.items()]

    def multiply(step: int) -> None:
        with torch.no_grad():
            for weight, kept in held:
                weight.mul_(kept)

    multiply(0)
    return multiply


def settle_norms(module: nn.Module, batches: Iterable[Batch]) -> None:
    """Batch norms get the mean statistics of these batches instead of their running ones.

    For a module whose weights have changed without training, or that was trained on other inputs than real ones.
    """
    norms = [layer for layer in module.modules() if isinstance(layer, _NORMS) and layer.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    batches = [batch for batch in batches if len(batch[0]) > 1]
    if not norms or not batches:
        return
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
        norm.train()
    with torch.no_grad():
        for inputs, targets in batches:
            module(_placed(inputs, targets, module)[0])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    module.eval()


def _batches(context: Context, training: Training, *, total: int, least: int) -> Iterator[Batch]:
    """`total` batches, epoch after epoch; those of fewer than `least` rows are left out."""
    given, epoch = 0, 0
    while given < total:
        before = given
        for batch in context.material.batches(epoch=epoch, batch_size=training.batch_size):
            if len(batch[0]) < least:
                continue
            yield batch
            given += 1
            if given == total:
                return
        if given == before:
            raise CompressionError(f"training: epoch {epoch} of the data has no batch of at least {least} rows; give more data")
        epoch += 1


def _least(parts: nn.Module) -> int:
    # A batch norm cannot normalise one row by itself.
    return 2 if any(isinstance(layer, _NORMS) and layer.training for layer in parts.modules()) else 1


@contextmanager
def _trained(parts: nn.Module, training: Training) -> Iterator[None]:
    """In training mode inside, in inference mode afterwards."""
    flags = [(parameter, parameter.requires_grad) for parameter in parts.parameters()]
    if not any(flag for _, flag in flags):
        for parameter, _ in flags:
            parameter.requires_grad_(parameter.is_floating_point())
    parts.train()
    for layer in parts.modules():
        if training.freeze_norms and isinstance(layer, _NORMS):
            layer.eval()
    try:
        yield
    finally:
        parts.eval()
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
            parameter.grad = None


def _optimizer(parts: nn.Module, training: Training) -> torch.optim.Optimizer:
    trained = [parameter for parameter in parts.parameters() if parameter.requires_grad]
    if not trained:
        raise CompressionError("training: the model has no parameter of floating point to train")
    groups = [
        {"params": [one for one in trained if one.dim() > 1], "weight_decay": training.weight_decay},
        {"params": [one for one in trained if one.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if training.optimizer == "AdamW":
        return torch.optim.AdamW(groups, lr=training.lr)
    return torch.optim.SGD(groups, lr=training.lr, momentum=training.momentum, nesterov=training.momentum > 0)


def _placed(inputs: torch.Tensor, targets: torch.Tensor, module: nn.Module) -> Batch:
    device = next(module.parameters()).device
    return inputs.to(device), targets.to(device)


def _precision(parts: nn.Module, training: Training) -> torch.autocast | nullcontext[None]:
    if training.precision == "fp32":
        return nullcontext()
    return torch.autocast(next(parts.parameters()).device.type, dtype=torch.bfloat16)


def _cuda(parts: nn.Module) -> list[torch.device]:
    return [device for device in {parameter.device for parameter in parts.parameters()} if device.type == "cuda"]


def _finite(value: torch.Tensor, *, step: int, label: str, lr: float) -> float:
    loss = float(value.detach())
    if not math.isfinite(loss):
        raise CompressionError(
            f"{label}: the loss is {loss} at step {step} with a learning rate of {lr:.3g}; lower training.lr or set training.clip"
        )
    return loss


class _Progress:
    """A line every 10 s, and one at the end."""

    def __init__(self, *, label: str, total: int, say: Callable[[str], None]) -> None:
        self._label, self._total, self._say = label, total, say
        self._rows, self._began = 0, time.monotonic()
        self._said = self._began

    def step(self, step: int, *, loss: float, rows: int) -> None:
        self._rows += rows
        now = time.monotonic()
        if now - self._said < SAY_SECONDS and step < self._total:
            return
        self._said, took = now, max(now - self._began, 1e-9)
        left = took / step * (self._total - step)
        self._say(
            f"{self._label}: step {step}/{self._total}, loss {loss:.4f}, {self._rows / took:.0f} rows/s, "
            + (f"{left:.0f} s left" if step < self._total else f"took {took:.1f} s")
        )
