"""Edits of a module's structure: what makes the recipe's module one with the shapes of a compressed file.

Channels, heads and low rank change shapes. The file lists the edits in the order they were made, and the loader repeats
them on a fresh module of the recipe, so no pickled module is ever needed. The list comes from a file, so nothing in it is
trusted: layers must be there and of a known type, and no size ever grows.

    {"edit": "resize", "path": "layer1.0.conv1", "inputs": 16, "outputs": 8}
    {"edit": "factor", "path": "fc", "rank": 12}
    {"edit": "attribute", "path": "layers.0", "name": "heads", "value": 8}
    {"edit": "fold", "path": "layer1.0.conv1", "norm": "layer1.0.bn1"}

A resize leaves the old size where it names none. Repeating a resize or an attribute changes nothing; a layer can be
factored once, since its path is a pair of layers then, and a norm folded once. New layers hold zeros (norms: ones and zeros),
to be filled by the file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from torch import nn

from modelmill.compress.errors import BadArtifact
from modelmill.compress.layers import biased, factored, resized


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize:
    """A layer with fewer inputs or outputs: of a linear layer or convolution, or the features (`outputs`) of a norm."""

    path: str
    inputs: int | None = None
    outputs: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Factor:
    """A linear layer or convolution as two in sequence, with `rank` channels between them (`lowrank`)."""

    path: str
    rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAttribute:
    """A whole number that the module's forward reads, such as how many heads it has."""

    path: str
    name: str
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """A convolution that has taken in the batch norm after it: it has a bias, and the norm is gone."""

    path: str
    norm: str
    """Path of the norm."""


Edit = Resize | Factor | SetAttribute | Fold
_KINDS: dict[str, type[Edit]] = {"resize": Resize, "factor": Factor, "attribute": SetAttribute, "fold": Fold}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_WORDS = ("path", "name", "norm")


def to_json(edits: Sequence[Edit]) -> list[dict[str, Any]]:
    return [
        {"edit": _NAMES[type(edit)]} | {key: value for key, value in asdict(edit).items() if value is not None} for edit in edits
    ]


def from_json(raw: Sequence[Mapping[str, Any]]) -> tuple[Edit, ...]:
    """The edits of a file. Whether they fit a module is for `apply_edits`.

    Raises BadArtifact for a kind or key that is not known, a key that is missing, and a value of another type."""
    return tuple(_edit(index, entry) for index, entry in enumerate(raw))


def apply_edits(module: nn.Module, edits: Sequence[Edit]) -> nn.Module:
    """Does the edits to the module, in order and in place, and returns it. New tensors are on the old ones' device.

    Raises BadArtifact for an edit that does not fit; the module is of no use then."""
    for index, edit in enumerate(edits):
        where = f"structure[{index}] ({_NAMES[type(edit)]} {edit.path!r})"
        if isinstance(edit, SetAttribute):
            _set(module, edit, where=where)
            continue
        layer = _layer(module, edit.path, where=where)
        if isinstance(edit, Fold):
            biased(layer, _layer(module, edit.norm, where=where), where=where)
            module.set_submodule(edit.norm, nn.Identity())
            continue
        if isinstance(edit, Factor):
            made: nn.Module = factored(layer, rank=edit.rank, where=where)
        else:
            made = resized(layer, inputs=edit.inputs, outputs=edit.outputs, where=where)
        module.set_submodule(edit.path, made)
    return module


def _edit(index: int, raw: Mapping[str, Any]) -> Edit:
    where = f"structure[{index}]"
    kind = raw.get("edit")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise BadArtifact(f"{where}: edit {kind!r} is not known; use one of {', '.join(_KINDS)}")
    made = _KINDS[kind]
    given = {key: value for key, value in raw.items() if key != "edit"}
    wanted = {field.name: field.default is MISSING for field in fields(made)}
    if unknown := given.keys() - wanted.keys():
        raise BadArtifact(f"{where}: {kind} has no key {min(unknown)!r}; it has {', '.join(wanted)}")
    if missing := [key for key, needed in wanted.items() if needed and key not in given]:
        raise BadArtifact(f"{where}: {kind} needs the key {missing[0]!r}")
    for key, value in given.items():
        # bool is a kind of int in Python, and no size.
        if type(value) is not (str if key in _WORDS else int):
            raise BadArtifact(f"{where}: {key} {value!r} must be {'text' if key in _WORDS else 'a whole number'}")
    if made is Resize and len(given) == 1:
        raise BadArtifact(f"{where}: resize needs inputs, outputs or both")
    return made(**given)


def _layer(module: nn.Module, path: str, *, where: str) -> nn.Module:
    """The layer at a path, which must be in one place only: another place would keep the old layer or its weight."""
    layer = _module(module, path, where=where)
    if not path:
        raise BadArtifact(f"{where}: the model itself cannot be replaced within")
    if [found for _, found in module.named_modules(remove_duplicate=False)].count(layer) > 1:
        raise BadArtifact(f"{where}: the layer is at several places of the model")
    own = {id(parameter) for parameter in layer.parameters(recurse=False)}
    if sum(id(parameter) in own for _, parameter in module.named_parameters(remove_duplicate=False)) > len(own):
        raise BadArtifact(f"{where}: several layers share its weight")
    return layer


def _set(module: nn.Module, edit: SetAttribute, *, where: str) -> None:
    owner = _module(module, edit.path, where=where)
    now = vars(owner).get(edit.name)
    if edit.name.startswith("_") or type(now) is not int:
        raise BadArtifact(f"{where}: {type(owner).__name__} has no whole number {edit.name!r} of its own")
    if not 1 <= edit.value <= now:
        raise BadArtifact(f"{where}: {edit.name} {edit.value} must be from 1 to {now}")
    setattr(owner, edit.name, edit.value)


def _module(module: nn.Module, path: str, *, where: str) -> nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError as error:
        raise BadArtifact(f"{where}: the model has no such layer") from error
