"""A torch module behind its signature: rows in, rows out, on whatever device there is.

The module is called with its inputs in the signature's order and may answer with a tensor, a tuple, or a dict by
output name. The first dimension of every output must be the batch: batching relies on it, so it is checked each time.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from modelmill.compress.graph.tensors import clone
from modelmill.datatypes import Array
from modelmill.recipe.check import TORCH
from modelmill.serve.rows import Rows
from modelmill.signature import Signature


class WrongOutput(ValueError):
    """The module answered with something else than its signature says."""


class TorchModel:
    def __init__(
        self,
        module: Callable[..., Any],
        *,
        signature: Signature,
        device: str | torch.device = "cpu",
        shapes: Sequence[tuple[int, int]] = (),
        ways: Mapping[str, int] | None = None,
    ) -> None:
        """`shapes`: to warm up with, rows and the size of free dimensions; besides one row and a full batch. `ways`: how many
        compressed weights run by each (`compress.device`)."""
        self.signature = signature
        self.shapes = shapes
        self.ways = ways or {}
        self.device = torch.device(device)
        self._on_cpu = self.device.type == "cpu"
        self._module = module
        self._inputs = tuple((tensor.name, tensor.datatype == "BF16") for tensor in signature.inputs)
        self._outputs = tuple((tensor.name, TORCH[tensor.datatype]) for tensor in signature.outputs)

    @property
    def module(self) -> "TorchModel":
        """What runs without a recipe's own steps."""
        return self

    def copy(self) -> "TorchModel":
        """For another thread: the weights are shared, what a forward pass keeps is not."""
        return TorchModel(self._cloned(), signature=self.signature, device=self.device)

    def _cloned(self) -> Callable[..., Any]:
        return clone(self._module) if isinstance(self._module, torch.nn.Module) else self._module

    def prepare(self, max_rows: int) -> None:
        """Before the first batch of up to so many rows: what warming up does not do by running it."""

    def try_out(self) -> None:
        """Warming up the module has done that."""

    def __call__(self, rows: Rows) -> Rows:
        with torch.inference_mode():
            outputs = self._module(*self.tensors(rows))
            if len(self._outputs) == 1 and isinstance(outputs, torch.Tensor):
                ((name, dtype),) = self._outputs
                return Rows({name: self._array(outputs, name, dtype, rows.count)}, rows.count)
            named = self._named(outputs)
            arrays = {name: self._array(named.get(name), name, dtype, rows.count) for name, dtype in self._outputs}
            return Rows(arrays, rows.count)

    def tensors(self, rows: Rows) -> list[torch.Tensor]:
        """The module's arguments for these rows, in the signature's order."""
        return [self._tensor(rows.arrays[name], bf16=bf16) for name, bf16 in self._inputs]

    def _tensor(self, array: Array, *, bf16: bool) -> torch.Tensor:
        flags = array.flags
        if not (flags.c_contiguous and flags.aligned and flags.writeable):
            array = np.require(array, requirements=["C", "A", "W"])
        tensor = torch.from_numpy(array)
        if bf16:
            tensor = tensor.view(torch.bfloat16)
        return tensor if self._on_cpu else tensor.to(self.device)

    def _named(self, outputs: Any) -> Mapping[str, Any]:
        if isinstance(outputs, Mapping):
            return outputs
        many: Sequence[Any] = outputs if isinstance(outputs, list | tuple) else (outputs,)
        if len(many) != len(self.signature.outputs):
            raise WrongOutput(f"the module returned {len(many)} outputs, its signature names {len(self.signature.outputs)}")
        return {tensor.name: value for tensor, value in zip(self.signature.outputs, many, strict=True)}

    def _array(self, value: Any, name: str, dtype: torch.dtype, count: int) -> Array:
        if not isinstance(value, torch.Tensor) or not value.ndim or value.size(0) != count:
            raise wrong_output(name, value, count)
        # Most are right already: asking costs less than having nothing done.
        wanted = value
        if value.dtype is not dtype or not value.is_cpu or not value.is_contiguous():
            wanted = value.to(device="cpu", dtype=dtype).contiguous()
        array: Array = wanted.view(torch.uint16).numpy() if dtype is torch.bfloat16 else wanted.numpy()
        return array


def wrong_output(name: str, value: object, count: int) -> WrongOutput:
    if not isinstance(value, torch.Tensor):
        return WrongOutput(f"output {name!r}: expected a tensor, the module returned {type(value).__name__}")
    return WrongOutput(f"output {name!r}: shape {list(value.shape)} for {count} rows; the first dimension must be the batch")
