"""A torch module behind its signature: rows in, rows out, on whatever device there is.

The module is called with its inputs in the signature's order and may answer with a tensor, a tuple, or a dict by
output name. The first dimension of every output must be the batch: batching relies on it, so it is checked each time.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from modelmill.recipe.check import TORCH
from modelmill.serve.datatypes import Array
from modelmill.serve.rows import Rows
from modelmill.signature import Signature


class WrongOutput(ValueError):
    """The module answered with something else than its signature says."""


class TorchModel:
    def __init__(self, module: Callable[..., Any], *, signature: Signature, device: str = "cpu") -> None:
        self.signature = signature
        self.device = torch.device(device)
        self._module = module

    def __call__(self, rows: Rows) -> Rows:
        with torch.inference_mode():
            inputs = [self._tensor(rows.arrays[tensor.name], tensor.datatype) for tensor in self.signature.inputs]
            outputs = self._named(self._module(*inputs))
            return Rows(
                {tensor.name: self._array(outputs, tensor.name, rows.count) for tensor in self.signature.outputs}, rows.count
            )

    def _tensor(self, array: Array, datatype: str) -> torch.Tensor:
        tensor = torch.from_numpy(np.require(array, requirements=["C", "A", "W"]))
        return (tensor.view(torch.bfloat16) if datatype == "BF16" else tensor).to(self.device)

    def _named(self, outputs: Any) -> Mapping[str, Any]:
        if isinstance(outputs, Mapping):
            return outputs
        many: Sequence[Any] = outputs if isinstance(outputs, list | tuple) else (outputs,)
        if len(many) != len(self.signature.outputs):
            raise WrongOutput(f"the module returned {len(many)} outputs, its signature names {len(self.signature.outputs)}")
        return {tensor.name: value for tensor, value in zip(self.signature.outputs, many, strict=True)}

    def _array(self, outputs: Mapping[str, Any], name: str, count: int) -> Array:
        value = outputs.get(name)
        if not isinstance(value, torch.Tensor):
            raise WrongOutput(f"output {name!r}: expected a tensor, the module returned {type(value).__name__}")
        if not value.ndim or value.shape[0] != count:
            raise WrongOutput(
                f"output {name!r}: shape {list(value.shape)} for {count} rows; the first dimension must be the batch"
            )
        datatype = next(tensor.datatype for tensor in self.signature.outputs if tensor.name == name)
        wanted = value.to(device="cpu", dtype=TORCH[datatype]).contiguous()
        array: Array = wanted.view(torch.uint16).numpy() if datatype == "BF16" else wanted.numpy()
        return array
