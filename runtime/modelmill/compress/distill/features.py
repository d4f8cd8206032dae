"""Feature and attention matching: the student learns what the teacher's layers say in between, not only its answers.

    loss = simple(x, y) + weight * mean over pairs of distance(student's layer, teacher's layer)

Features: mean of (r(student) - teacher)^2 / mean of teacher^2, where r is a learned linear map of the channels (a 1x1 convolution
of images) if the widths differ, and nothing otherwise; it is trained along and thrown away. Romero et al. 2015, "FitNets",
who train the hints first; here they are trained with the rest.
Attention: where a layer is active. q = the sum of squared channels at each position, divided by its L2 norm over the positions;
the distance is the mean over rows of |q_student - q_teacher|^2, from 0 to 2. Widths may differ. Zagoruyko and Komodakis 2017,
"Paying More Attention to Attention".

Layers' outputs are [N, C, H, W], [N, positions, C] or, for Features, [N, C]; all but the channels must agree.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from modelmill.compress.distill.simple import Soft
from modelmill.compress.distill.soft import asked
from modelmill.compress.draft import Context
from modelmill.compress.errors import CompressionError
from modelmill.compress.tune import Training, tune

Method = Literal["Features", "Attention"]
Pairs = Sequence[tuple[str, str]]
WEIGHTS: Mapping[Method, float] = {"Features": 25.0, "Attention": 1.0}
"""Of the distance in the loss. ResNet-56 on CIFAR-10 with less than half of its multiplications left, after half an epoch, was
right on 85.7 % of held-out rows without features, 86.0 % with weight 1, 87.2 % with 5, 89.3 % with 25, 90.7 % with 100 and
89.3 % with 400."""
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_LAYERS = (nn.Conv2d, nn.Linear)


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    method: Method = "Attention"
    pairs: tuple[tuple[str, str], ...] = ()
    """Paths of (student's layer, teacher's layer); none: `default_pairs`."""
    weight: float | None = None
    """None: that of the method (`WEIGHTS`)."""

    def __post_init__(self) -> None:
        if self.weight is not None and not 0 < self.weight < float("inf"):
            raise CompressionError(f"matching weight: {self.weight} must be above 0")

    @property
    def share(self) -> float:
        return WEIGHTS[self.method] if self.weight is None else self.weight


def default_pairs(student: nn.Module, teacher: nn.Module, inputs: torch.Tensor, *, method: Method) -> list[tuple[str, str]]:
    """Layers at the same path in both, of the same type, whose outputs agree in all but the channels.

    Blocks (modules with children, other than containers) if there are any such pairs, else convolutions and linear layers. Of
    neighbours with outputs of one shape the last is taken: a ResNet has one pair for each resolution. The module's own
    output is not among them.
    """
    shapes = [_shapes(module, inputs) for module in (student, teacher)]
    answer = [tuple(module(inputs).shape) for module in (student, teacher)]
    for wanted in (_is_block, _is_layer):
        found = dict[str, tuple[int, ...]]()
        for path, layer in student.named_modules():
            if not path or not wanted(layer) or any(path not in known for known in shapes):
                continue
            one, two = (known[path] for known in shapes)
            if type(layer) is type(teacher.get_submodule(path)) and _agree(one, two, method) and (one, two) != tuple(answer):
                found[path] = one
        paths = list(found)
        last = [path for number, path in enumerate(paths) if number + 1 == len(paths) or found[path] != found[paths[number + 1]]]
        if last:
            return [(path, path) for path in last]
    raise CompressionError("feature matching: student and teacher have no layers of the same path and size; name pairs")


def distill(
    student: nn.Module,
    context: Context,
    training: Training,
    *,
    soft: Soft,
    matching: Matching,
    label: str = "feature distillation",
    after_step: Callable[[int], None] | None = None,
) -> list[float]:
    """Trains the student in place; returns the loss of each step. CompressionError when a pair cannot be matched."""
    calibration = context.material.calibration(rows=2)
    if not calibration:
        raise CompressionError("feature matching: there are no calibration rows to compare the layers on")
    inputs = calibration[0][0][:2].to(next(student.parameters()).device)
    with asked(student), asked(context.teacher) as teacher, torch.no_grad():
        pairs = matching.pairs or default_pairs(student, teacher, inputs, method=matching.method)
        maps = _Maps(pairs, student=_outputs(student, inputs, pairs, 0), teacher=_outputs(teacher, inputs, pairs, 1),
                     method=matching.method, seed=context.seed)  # fmt: skip
    maps.to(inputs.device)
    context.say(f"{label}: {matching.method} of " + ", ".join(one if one == two else f"{one} as {two}" for one, two in pairs))

    def loss(module: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), _caught(teacher, [two for _, two in pairs]) as taught:
            expected = teacher(inputs)
        with _caught(module, [one for one, _ in pairs]) as got:
            answers = module(inputs)
        return soft.mix(answers, expected, targets, context) + matching.share * maps.distance(got, taught)

    with asked(context.teacher):
        return tune(student, context, training, loss=loss, label=label, after_step=after_step, also=maps)


def attention(features: torch.Tensor) -> torch.Tensor:
    """[N, positions] of [N, C, H, W] or [N, positions, C]: the sum of squares of the channels, of L2 norm 1 for each row."""
    squares = features.float().square().sum(dim=1 if features.dim() == 4 else -1)
    return functional.normalize(squares.flatten(1), dim=1)


class _Maps(nn.Module):
    """The distance of each pair, with what is learned for it."""

    def __init__(
        self,
        pairs: Pairs,
        *,
        student: Mapping[str, torch.Tensor],
        teacher: Mapping[str, torch.Tensor],
        method: Method,
        seed: int,
    ) -> None:
        super().__init__()
        self.pairs, self.method = pairs, method
        self.maps = nn.ModuleList()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for one, two in pairs:
                ours, theirs = student[one].shape, teacher[two].shape
                if not _agree(ours, theirs, method):
                    raise CompressionError(
                        f"{method} of {one!r} and {two!r}: outputs {list(ours)} and {list(theirs)} must agree in all but the "
                        "channels" + (", and have positions" if method == "Attention" else "")
                    )
                self.maps.append(_regressor(ours, theirs) if method == "Features" else nn.Identity())

    def distance(self, student: Mapping[str, torch.Tensor], teacher: Mapping[str, torch.Tensor]) -> torch.Tensor:
        values = [
            self._of(learned, student[one], teacher[two]) for (one, two), learned in zip(self.pairs, self.maps, strict=True)
        ]
        return torch.stack(values).mean()

    def _of(self, learned: nn.Module, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        if self.method == "Attention":
            return (attention(student) - attention(teacher)).square().sum(dim=1).mean()
        teacher = teacher.float()
        return functional.mse_loss(learned(student).float(), teacher) / teacher.square().mean().clamp_min(1e-12)


def _regressor(student: Sequence[int], teacher: Sequence[int]) -> nn.Module:
    channels = 1 if len(student) == 4 else -1
    ours, theirs = student[channels], teacher[channels]
    if ours == theirs:
        return nn.Identity()
    return nn.Conv2d(ours, theirs, 1) if len(student) == 4 else nn.Linear(ours, theirs)


def _agree(student: Sequence[int], teacher: Sequence[int], method: Method) -> bool:
    if len(student) != len(teacher) or len(student) not in ((2, 3, 4) if method == "Features" else (3, 4)):
        return False
    channels = 1 if len(student) == 4 else len(student) - 1
    return all(one == two for place, (one, two) in enumerate(zip(student, teacher, strict=True)) if place != channels)


def _is_block(layer: nn.Module) -> bool:
    return not isinstance(layer, _CONTAINERS) and any(True for _ in layer.children())


def _is_layer(layer: nn.Module) -> bool:
    return isinstance(layer, _LAYERS)


def _shapes(module: nn.Module, inputs: torch.Tensor) -> dict[str, tuple[int, ...]]:
    """The shapes of the outputs of all layers that give one tensor."""
    with _caught(module, [path for path, _ in module.named_modules() if path]) as found:
        module(inputs)
    return {path: tuple(tensor.shape) for path, tensor in found.items()}


def _outputs(module: nn.Module, inputs: torch.Tensor, pairs: Pairs, side: int) -> dict[str, torch.Tensor]:
    whose = ("student", "teacher")[side]
    known = dict(module.named_modules())
    for pair in pairs:
        if pair[side] not in known:
            raise CompressionError(f"matching pair {pair[side]!r}: the {whose} has no such layer")
    with _caught(module, [pair[side] for pair in pairs]) as found:
        module(inputs)
    for pair in pairs:
        if pair[side] not in found:
            raise CompressionError(f"matching pair {pair[side]!r}: the {whose}'s layer does not give one tensor, or is not used")
    return found


@contextmanager
def _caught(module: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """What these layers gave, by path, once the module has been called; of several calls the last."""
    found = dict[str, torch.Tensor]()

    def catch(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_layer: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                found[path] = output

        return hook

    hooks = [module.get_submodule(path).register_forward_hook(catch(path)) for path in dict.fromkeys(paths)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
