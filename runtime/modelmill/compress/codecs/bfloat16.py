"""bfloat16 throughout: every tensor of floating point, rounded to the nearest (ties to even), half the bytes.

The module then computes in bfloat16 where the device has instructions for it (AVX512-BF16, AMX, NVIDIA's since Ampere).
Elsewhere it computes in float32 on the rounded weights: emulated arithmetic took nine times as long (docs/compression.md).
Its inputs and outputs stay what the signature says.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modelmill.compress.errors import BadArtifact, CompressionError

NAME = "bfloat16"
CPU_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""As Linux tells them; the last one on ARM."""


def encode(tensor: torch.Tensor, *, name: str) -> torch.Tensor:
    rounded = tensor.detach().to(torch.bfloat16)
    if not bool(rounded.isfinite().all()):
        raise CompressionError(f"tensor {name!r}: not all values are finite; train again with a lower lr")
    return rounded


def check(data: torch.Tensor, *, name: str) -> None:
    if data.dtype != torch.bfloat16:
        raise BadArtifact(f"tensor {name!r}: the codec {NAME} stores torch.bfloat16, the file has {data.dtype}")


@cache
def is_native() -> bool:
    """Whether the device that will compute has instructions for it."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next((line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))), "")
    return not CPU_FLAGS.isdisjoint(flags.split())


def compute(module: nn.Module) -> nn.Module:
    """The module turned to bfloat16 within; to be given its weights."""
    module.to(torch.bfloat16)
    module.register_forward_pre_hook(lambda _, inputs: _cast(inputs, torch.bfloat16))
    module.register_forward_hook(lambda _, inputs, outputs: _cast(outputs, torch.float32))
    return module


def _cast(values: Any, dtype: torch.dtype) -> Any:
    if isinstance(values, torch.Tensor):
        return values.to(dtype) if values.is_floating_point() else values
    if isinstance(values, dict):
        return {name: _cast(value, dtype) for name, value in values.items()}
    return tuple(_cast(value, dtype) for value in values) if isinstance(values, tuple | list) else values
