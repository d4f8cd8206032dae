"""Building a module without drawing random numbers for weights that a file replaces next.

The numbers of a small encoder take a fifth of a second, which a pod's start does not have to give away.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import nn

RANDOM = (
    *("uniform_", "normal_", "trunc_normal_", "orthogonal_", "sparse_"),
    *("xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_"),
)
"""Of torch.nn.init."""


@contextmanager
def blank_weights() -> Iterator[None]:
    """Inside, `torch.nn.init` leaves parameters as the memory happens to be; buffers and everything else are as ever."""
    kept = {name: getattr(nn.init, name) for name in RANDOM}
    for name, fill in kept.items():
        setattr(nn.init, name, _only_buffers(fill))
    try:
        yield
    finally:
        for name, fill in kept.items():
            setattr(nn.init, name, fill)


def _only_buffers(fill: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @wraps(fill)
    def filled(tensor: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        return tensor if isinstance(tensor, nn.Parameter) else fill(tensor, *args, **options)

    return filled
