"""Writes a plain safetensors file with every weight decoded: what any other tool reads, at the size of floats."""

from collections.abc import Mapping
from pathlib import Path

import torch

from modelmill.compress import container
from modelmill.compress.weights import Plain, Weight


def export(weights: Mapping[str, Weight], path: Path) -> int:
    """Writes the file and returns its size. bfloat16 stays so; codes become the float32 that they stand for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return container.write(path, {name: decoded(weight) for name, weight in weights.items()}, metadata={"format": "pt"})


def decoded(weight: Weight) -> torch.Tensor:
    return weight.data if isinstance(weight, Plain) else weight.decode()
