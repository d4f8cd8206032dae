"""Parameter migration: the weights of a large trained model mapped into a smaller one, as its first weights.

Each tensor of the student comes from the tensor of the teacher at its path. A dimension of t values there and s < t here is cut
by one rule, the same one everywhere, so that what a layer puts out is what the next one takes in:

    Select    values (j * t) // s for j < s: evenly spaced. Xu et al. 2024, "Initializing Models with Larger Ones"
    Slice     values 0 to s - 1
    Average   the mean of neighbours: student's j stands for teacher's (j * t) // s to ((j + 1) * t) // s - 1

Average along the inputs of a layer is the sum of those neighbours, not their mean: one unit of the student stands for all of
them, and what it puts out must count as often. So where neighbours are equal units, the student answers exactly as its teacher.
Select and Slice keep values as they are, as in the paper; the sums in the layers behind become smaller, about by s / t.

Numbered containers of one type of layer (`layer1.0`, `layer1.1`, ...) may be deeper in the teacher: block i of s comes from block
round(i * (t - 1) / (s - 1)) of t, so the first and the last are kept. Others are matched by name. The rows of a
`MultiheadAttention`'s joint projection are cut in each of their three parts.

What no rule can know: an input that is several channels flattened, heads (they are cut as any dimension is), groups of a grouped
convolution; there the student begins with values of a trained model that do not fit together, and must learn more.
"""

import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from modelmill.compress.errors import CompressionError

Rule = Literal["Select", "Slice", "Average"]
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)
_JOINT = re.compile(r"(^|\.)in_proj_(weight|bias)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    mapped: dict[str, str]
    """Name of a tensor of the student -> the teacher's, and what was done to it."""
    fresh: dict[str, str]
    """Name of a tensor of the student that stayed as it was -> why."""


def migrate(student: nn.Module, teacher: nn.Module, *, rule: Rule) -> Migration:
    """Sets the student's parameters and buffers in place, and tells how. CompressionError when no parameter could be mapped."""
    source, mapped, fresh = teacher.state_dict(), dict[str, str](), dict[str, str]()
    paths = _Paths(student, teacher)
    with torch.no_grad():
        for name, tensor in student.state_dict().items():
            origin = paths.origin(name)
            given = source.get(origin)
            reason = "the teacher has none of this name" if given is None else _refusal(tensor, given, name, student)
            if given is None or reason is not None:
                fresh[name] = reason or ""
                continue
            tensor.copy_(
                _cut(given, tensor.shape, rule=rule, inputs=_input_dimension(name, student), joint=bool(_JOINT.search(name)))
            )
            mapped[name] = origin + _told(given.shape, tensor.shape, rule)
    if not any(name in mapped for name, _ in student.named_parameters()):
        raise CompressionError(
            "migration: no parameter of the model fits one of the teacher; both need the same names: "
            + "; ".join(f"{name}: {reason}" for name, reason in list(fresh.items())[:3])
        )
    return Migration(mapped=mapped, fresh=fresh)


def places(*, of: int, into: int) -> list[range]:
    """Which of the teacher's `of` values each of the student's `into` stands for: neighbours, none left out."""
    return [range(j * of // into, (j + 1) * of // into) for j in range(into)]


def _cut(given: torch.Tensor, shape: torch.Size, *, rule: Rule, inputs: int | None, joint: bool) -> torch.Tensor:
    """The teacher's tensor in the student's shape; `inputs` is the dimension whose values are summed over by the layer."""
    if given.shape == shape:
        return given
    if joint:
        part = torch.Size([shape[0] // 3, *shape[1:]])
        return torch.cat([_cut(third, part, rule=rule, inputs=inputs, joint=False) for third in given.chunk(3)])
    found = given if rule != "Average" else given.double()
    for dimension, (old, new) in enumerate(zip(given.shape, shape, strict=True)):
        if old != new:
            found = _reduced(found, dimension, places(of=old, into=new), rule=rule, summed=dimension == inputs)
    return found.to(given.dtype)


def _reduced(tensor: torch.Tensor, dimension: int, groups: list[range], *, rule: Rule, summed: bool) -> torch.Tensor:
    if rule == "Slice":
        return tensor.narrow(dimension, 0, len(groups))
    if rule == "Select":
        return tensor.index_select(dimension, torch.tensor([group.start for group in groups], device=tensor.device))
    parts = tensor.split([len(group) for group in groups], dim=dimension)
    return torch.stack([part.sum(dim=dimension) if summed else part.mean(dim=dimension) for part in parts], dim=dimension)


def _refusal(tensor: torch.Tensor, given: torch.Tensor, name: str, student: nn.Module) -> str | None:
    """Why the student's tensor cannot be made of the teacher's; None when it can."""
    if tensor.dtype != given.dtype:
        return f"{tensor.dtype}, the teacher's is {given.dtype}"
    if tensor.shape == given.shape:
        return None
    shapes = f"{list(tensor.shape)}, the teacher's is {list(given.shape)}"
    if tensor.dim() != given.dim() or any(new > old for new, old in zip(tensor.shape, given.shape, strict=True)):
        return f"{shapes}: larger, or of another form"
    if not tensor.is_floating_point():
        return f"{shapes}: whole numbers cannot be cut"
    if isinstance(_owner(name, student), _CONVOLUTIONS) and tensor.shape[2:] != given.shape[2:]:
        return f"{shapes}: kernels of other sizes"
    if _JOINT.search(name) and (tensor.shape[0] % 3 or given.shape[0] % 3):
        return f"{shapes}: not three projections"
    return None


def _input_dimension(name: str, student: nn.Module) -> int | None:
    """Along which dimension the layer sums; None for embeddings, norms, biases and what is not known."""
    owner, own = _owner(name, student), name.rpartition(".")[2]
    if isinstance(owner, nn.MultiheadAttention):
        return 1 if own in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight") else None
    if own != "weight":
        return None
    if isinstance(owner, _TRANSPOSED):
        return 0
    return 1 if isinstance(owner, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) else None


def _owner(name: str, student: nn.Module) -> nn.Module | None:
    try:
        return student.get_submodule(name.rpartition(".")[0])
    except AttributeError:  # a state dict may use names of its own
        return None


def _told(old: torch.Size, new: torch.Size, rule: Rule) -> str:
    cuts = [f"{one} to {two}" for one, two in zip(old, new, strict=True) if one != two]
    return f": {rule} {', '.join(cuts)}" if cuts else ""


class _Paths:
    """From names in the student to names in the teacher, which may have more blocks."""

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        self._moved = dict[tuple[str, str], str]()
        """(path of a container in the student, number of its block) -> number in the teacher."""
        self._visit(student, teacher, "")

    def origin(self, name: str) -> str:
        path, found = "", list[str]()
        for part in name.split("."):
            found.append(self._moved.get((path, part), part))
            path = f"{path}.{part}" if path else part
        return ".".join(found)

    def _visit(self, student: nn.Module, teacher: nn.Module, path: str) -> None:
        ours, theirs = dict(student.named_children()), dict(teacher.named_children())
        if _uniform(ours, theirs):
            last, steps = len(theirs) - 1, max(1, len(ours) - 1)
            for number in range(len(ours)):
                self._moved[path, str(number)] = str((2 * number * last + steps) // (2 * steps))
        for own, child in ours.items():
            other = theirs.get(self._moved.get((path, own), own))
            if other is not None:
                self._visit(child, other, f"{path}.{own}" if path else own)


def _uniform(ours: dict[str, nn.Module], theirs: dict[str, nn.Module]) -> bool:
    """Whether both are blocks 0, 1, 2, ... of one type, more of them in the teacher."""
    numbered = all(list(part) == [str(number) for number in range(len(part))] for part in (ours, theirs))
    types = {type(child) for child in (*ours.values(), *theirs.values())}
    return numbered and 0 < len(ours) < len(theirs) and len(types) == 1
