"""Puts the weights of a file into a module that the recipe has built; compressed ones are computed on as they are.

The file is not trusted: names, shapes and dtypes must be those of the module, after the edits of its structure that the file
lists, and nothing may be missing or left over. Dense tensors stay mapped from the file, so loading copies nothing.
"""

import logging
from pathlib import Path

import torch
from torch import nn

from modelmill.compress import modules
from modelmill.compress.codecs import bfloat16
from modelmill.compress.errors import BadArtifact
from modelmill.compress.select import Selection, select
from modelmill.compress.state import tensors_of
from modelmill.compress.structure import apply_edits, from_json
from modelmill.compress.weight import CompressedWeight
from modelmill.compress.weights import Plain, Weight, read_weights

log = logging.getLogger(__name__)


def load_variant(module: nn.Module, weights: Path) -> nn.Module:
    """The module with the file's weights, for inference; layers with compressed weights are replaced in place."""
    stored = read_weights(weights)
    apply_edits(module, from_json(stored.structure))
    expected = tensors_of(module)
    _check_names(stored.tensors, expected)
    selection = select(module)
    for name, weight in stored.tensors.items():
        _check(name, weight, expected[name], selection)
    plain = {name: weight for name, weight in stored.tensors.items() if isinstance(weight, Plain)}
    module.load_state_dict(_computed_on(plain, module, expected), strict=False, assign=True)
    for name, weight in stored.tensors.items():
        if isinstance(weight, CompressedWeight):
            _replace(module, selection.layers[name], weight)
    return module.eval().requires_grad_(False)


def _computed_on(plain: dict[str, Plain], module: nn.Module, expected: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors in the precision that the module computes in, which may become bfloat16."""
    rounded = any(weight.codec == bfloat16.NAME for weight in plain.values())
    if rounded and bfloat16.is_native():
        bfloat16.compute(module)
    elif rounded:
        log.info("no instructions for bfloat16 here: computing in float32 with the rounded weights")
        return {
            name: weight.data.to(expected[name].dtype) if weight.codec == bfloat16.NAME else weight.data
            for name, weight in plain.items()
        }
    return {name: weight.data for name, weight in plain.items()}


def _check_names(stored: dict[str, Weight], expected: dict[str, torch.Tensor]) -> None:
    missing, unknown = sorted(expected.keys() - stored.keys()), sorted(stored.keys() - expected.keys())
    if missing or unknown:
        wrong = "; ".join(
            f"{what} {', '.join(map(repr, names[:5]))}" for what, names in (("missing", missing), ("unknown", unknown)) if names
        )
        raise BadArtifact(f"the weights file is for another model() or other hyperparameters: {wrong}")


def _check(name: str, weight: Weight, expected: torch.Tensor, selection: Selection) -> None:
    if isinstance(weight, CompressedWeight):
        if weight.shape != tuple(expected.shape):
            raise BadArtifact(f"tensor {name!r}: the model has shape {list(expected.shape)}, the file {list(weight.shape)}")
        if name not in selection.layers:
            reason = selection.kept.get(name, "it is not the weight of a layer")
            raise BadArtifact(f"tensor {name!r}: codec {weight.codec!r} cannot be computed on here: {reason}")
        return
    dtype = torch.bfloat16 if weight.codec == bfloat16.NAME else expected.dtype
    if weight.data.dtype != dtype or weight.data.shape != expected.shape:
        raise BadArtifact(
            f"tensor {name!r}: the model has {dtype} {list(expected.shape)}, "
            f"the file {weight.data.dtype} {list(weight.data.shape)}"
        )
    if weight.codec == bfloat16.NAME and not expected.is_floating_point():
        raise BadArtifact(f"tensor {name!r}: the model has {expected.dtype}, which is never stored as {bfloat16.NAME}")


def _replace(module: nn.Module, path: str, weight: CompressedWeight) -> None:
    # Its fused path would hand our weights to a kernel that knows floats only.
    torch.backends.mha.set_fastpath_enabled(False)
    weight.prepare()
    module.set_submodule(path, modules.replace(module.get_submodule(path), weight))
