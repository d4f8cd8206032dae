"""A module with decoded weights: plain layers and floats, for tools that know nothing else."""

import torch
from torch import nn

from modelmill.compress.errors import BadArtifact
from modelmill.compress.formats.dense import decoded
from modelmill.compress.state import tensors_of
from modelmill.compress.structure import apply_edits, from_json
from modelmill.compress.weights import Weights


def dense_module(module: nn.Module, weights: Weights) -> nn.Module:
    """The recipe's module after the edits of its structure, every weight decoded, in the module's own types; for inference."""
    apply_edits(module, from_json(weights.structure))
    expected = tensors_of(module)
    different = sorted(expected.keys() ^ weights.tensors.keys())
    if different:
        raise BadArtifact(
            f"the weights are for another model() or other hyperparameters: {different[0]!r} is in one of both only"
        )
    found: dict[str, torch.Tensor] = {name: decoded(weight).to(expected[name].dtype) for name, weight in weights.tensors.items()}
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            raise BadArtifact(f"tensor {name!r}: the model has shape {list(expected[name].shape)}, the file {list(tensor.shape)}")
    module.load_state_dict(found, assign=True)
    return module.eval().requires_grad_(False)
