"""Reads AWQ's GEMM layout: 4 bits, group by group, with zeros.

    w[n, k] = scales[g, n] * (q[k, n] - z[g, n])
    qweight int32 [K, N / 8]    qzeros int32 [G, N / 8]    scales float16 [G, N]

A word holds 8 output channels, 4 bits each; place i (bits 4 * i) is that of channel _ORDER[i] of the eight.
Lin et al. 2023, "AWQ: Activation-aware Weight Quantization for On-Device LLM Compression and Acceleration".
"""

from collections.abc import Mapping
from typing import Any

import torch

from modelmill.compress.errors import BadArtifact
from modelmill.compress.formats import bits
from modelmill.compress.formats.numbers import FLOATS, Numbers, signed, weight_of
from modelmill.compress.formats.tensors import Tensors
from modelmill.compress.weights import Plain, Weight

METHOD = "awq"
_BITS, _PER_WORD = 4, 8
_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_CODES = ".qweight"


def read(config: Mapping[str, Any], tensors: Tensors) -> dict[str, Weight]:
    """Every weight, named as the layer's own `weight`; raises BadArtifact."""
    width, version = config.get("bits", config.get("w_bit", _BITS)), config.get("version", "gemm")
    if width != _BITS or str(version).lower() != "gemm":
        raise BadArtifact(f"quantization_config: AWQ of {width!r} bits, version {version!r}, is not read; only 4 bits, gemm")
    weights: dict[str, Weight] = {}
    for name in tensors.names():
        if name.endswith(_CODES):
            owner = name.removesuffix(_CODES)
            weights[f"{owner}.weight"] = _weight(owner, tensors)
    return weights | {name: Plain(data=tensors.take(name)) for name in tensors.names()}


def _weight(owner: str, tensors: Tensors) -> Weight:
    stored = tensors.take(f"{owner}{_CODES}", dtypes=(torch.int32,), dimensions=(2,))
    scale = tensors.take(f"{owner}.scales", dtypes=FLOATS, dimensions=(2,))
    inputs, outputs, groups = stored.shape[0], stored.shape[1] * _PER_WORD, scale.shape[0]
    if not stored.numel() or not groups or inputs % groups or scale.shape[1] != outputs:
        raise BadArtifact(f"tensor {owner + '.scales'!r}: shape {list(scale.shape)} does not fit [{inputs}, {outputs}] codes")
    zero = None
    if f"{owner}.qzeros" in tensors:
        words = tensors.take(f"{owner}.qzeros", dtypes=(torch.int32,))
        if words.shape != (groups, stored.shape[1]):
            raise BadArtifact(
                f"tensor {owner + '.qzeros'!r}: expected [{groups}, {stored.shape[1]}], the file has {list(words.shape)}"
            )
        zero = _numbers(words)
    numbers = Numbers(
        numbers=_numbers(stored), bits=_BITS, scale=scale.t().to(torch.float32).contiguous(), zero=zero, shape=(outputs, inputs)
    )
    return weight_of(numbers, name=f"{owner}.weight")


def _numbers(words: torch.Tensor) -> torch.Tensor:
    """int8 [N, R] of words [R, N / 8]."""
    codes = bits.unpack(words, bits=_BITS, count=words.shape[1] * _PER_WORD)
    places = torch.tensor(_ORDER).argsort()
    ordered = codes.view(words.shape[0], -1, _PER_WORD)[..., places].flatten(1)
    return signed(ordered, bits=_BITS).t().contiguous()
