"""A module whose answers come from machine code, where that was made for the inputs, and else from the module."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from modelmill.artifact.compiled import Compiled
from modelmill.compress.formats.exported import PREFIX
from modelmill.serve.compiled.library import Library, digest_of, tensors_of
from modelmill.serve.compiled.sizes import Sizes
from modelmill.signature import Signature


class OtherModule(ValueError):
    """The machine code was made for another one."""


class CompiledModule(nn.Module):
    """For inference, on a processor. The weights are those of `plain`, in the same memory."""

    def __init__(self, library: Path, compiled: Compiled, *, plain: nn.Module, signature: Signature, instances: int) -> None:
        """Raises OtherModule, or what loading raises: OSError, LibraryError."""
        super().__init__()
        tensors = tensors_of(plain)
        if digest_of(tensors) != compiled.tensors:
            raise OtherModule("it computes with tensors of other names, datatypes or shapes than the module has")
        self.plain = plain
        self._sizes = Sizes(compiled, signature)
        self._library = Library(library, tensors={f"{PREFIX}{name}": one for name, one in tensors.items()}, instances=instances)

    def forward(self, *inputs: torch.Tensor) -> Any:
        if not self._sizes.admit(inputs):
            return self.plain(*inputs)
        outputs = self._library(inputs)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)
