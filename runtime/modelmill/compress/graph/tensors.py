"""Whose memory the tensors of a module are in: shared with another module, with a whole file, or their own."""

import copy
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import nn

Inputs = Sequence[torch.Tensor]
M = TypeVar("M", bound=nn.Module)


def tensors_of(module: nn.Module) -> Iterator[torch.Tensor]:
    return itertools.chain(module.parameters(), module.buffers())


def clone(module: M) -> M:
    """Its structure may be changed, and its tensors are those of the module."""
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors_of(module)})


def let_go(module: nn.Module) -> bool:
    """Few tensors cut out of a large memory, such as a mapped file, would keep all of it: they get memory of their own.

    Whether there were any."""
    used: Counter[int] = Counter()
    for tensor in tensors_of(module):
        used[_memory(tensor)] += tensor.nbytes
    own = {
        id(tensor): _copied(tensor)
        for tensor in tensors_of(module)
        if 2 * used[_memory(tensor)] < tensor.untyped_storage().nbytes()
    }
    for layer in module.modules():
        for name, value in (*layer._parameters.items(), *layer._buffers.items()):
            if id(value) in own:
                setattr(layer, name, own[id(value)])
    return bool(own)


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    copied = tensor.detach().clone()
    return nn.Parameter(copied, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copied
