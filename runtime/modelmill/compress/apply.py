"""Puts the weights of a file into a module that the recipe has built; compressed ones are computed on as they are.

The file is not trusted: names, shapes and dtypes must be those of the module, scales finite and positive, and nothing
may be missing or left over. Dense tensors stay mapped from the file, so loading copies nothing.
"""

import logging
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from modelmill.compress import modules
from modelmill.compress.codecs import bfloat16, dense, uniform
from modelmill.compress.errors import BadArtifact
from modelmill.compress.pipeline import tensors_of
from modelmill.compress.select import Selection, select
from modelmill.compress.weights import Weight, read_weights

log = logging.getLogger(__name__)


def load_variant(module: nn.Module, weights: Path) -> nn.Module:
    """The module with the file's weights, for inference; layers with compressed weights are replaced in place."""
    stored = read_weights(weights)
    expected = tensors_of(module)
    _check_names(stored, expected)
    selection = select(module)
    for name, weight in stored.items():
        _check(name, weight, expected[name], selection)
    rounded = any(weight.codec == bfloat16.NAME for weight in stored.values())
    if rounded and bfloat16.is_native():
        bfloat16.compute(module)
    elif rounded:
        log.info("no instructions for bfloat16 here: computing in float32 with the rounded weights")
        stored = {name: replace(weight, data=_wide(weight.data, expected[name])) for name, weight in stored.items()}
    plain = {name: weight.data for name, weight in stored.items() if weight.scale is None}
    module.load_state_dict(plain, strict=False, assign=True)
    for name, weight in stored.items():
        if weight.scale is not None:
            _replace(module, selection.layers[name], weight.data, weight.scale)
    return module.eval().requires_grad_(False)


def _check_names(stored: dict[str, Weight], expected: dict[str, torch.Tensor]) -> None:
    missing, unknown = sorted(expected.keys() - stored.keys()), sorted(stored.keys() - expected.keys())
    if missing or unknown:
        wrong = "; ".join(
            f"{what} {', '.join(map(repr, names[:5]))}" for what, names in (("missing", missing), ("unknown", unknown)) if names
        )
        raise BadArtifact(f"the weights file is for another model() or other hyperparameters: {wrong}")


def _wide(data: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    return data.to(expected.dtype) if data.dtype == torch.bfloat16 else data


def _check(name: str, weight: Weight, expected: torch.Tensor, selection: Selection) -> None:
    dtype = {dense.NAME: expected.dtype, bfloat16.NAME: torch.bfloat16}.get(weight.codec, torch.int8)
    if weight.data.dtype != dtype or weight.data.shape != expected.shape:
        raise BadArtifact(
            f"tensor {name!r}: the model has {dtype} {list(expected.shape)}, "
            f"the file {weight.data.dtype} {list(weight.data.shape)}"
        )
    if weight.codec == bfloat16.NAME and not expected.is_floating_point():
        raise BadArtifact(f"tensor {name!r}: the model has {expected.dtype}, which is never stored as {bfloat16.NAME}")
    if weight.codec == uniform.NAME and name not in selection.layers:
        reason = selection.kept.get(name, "it is not the weight of a layer")
        raise BadArtifact(f"tensor {name!r}: codec {weight.codec!r} cannot be computed on here: {reason}")


def _replace(module: nn.Module, path: str, codes: torch.Tensor, scale: torch.Tensor) -> None:
    # Its fused path would hand our int8 weights to a kernel that knows floats only.
    torch.backends.mha.set_fastpath_enabled(False)
    parent, _, own = path.rpartition(".")
    owner = module.get_submodule(parent)
    setattr(owner, own, modules.replace(getattr(owner, own), codes=codes, scale=scale))
