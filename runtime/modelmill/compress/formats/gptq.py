"""Reads GPTQ: 2, 3, 4 or 8 bits, group by group, with zeros.

    w[n, k] = scales[g, n] * (q[k, n] - z[g, n]),  g = g_idx[k]
    qweight int32 [K * b / 32, N]: a stream of bits along K    qzeros int32 [G, N * b / 32]: along N    scales float16 [G, N]

The first format of the checkpoint ("gptq") stores z - 1, the second ("gptq_v2") z. In the first, 2^b - 1 is refused: readers
disagree on whether it is 0 or 2^b. Where g_idx is not k // group_size, inputs of one group do not lie together (desc_act); such
a weight is decoded and stays dense.
Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers".
"""

from collections.abc import Mapping
from typing import Any

import torch

from modelmill.compress.errors import BadArtifact
from modelmill.compress.formats import bits
from modelmill.compress.formats.numbers import FLOATS, Numbers, signed, weight_of
from modelmill.compress.formats.tensors import Tensors
from modelmill.compress.weights import Plain, Weight

METHOD = "gptq"
_WIDTHS = (2, 3, 4, 8)
_FIRST, _SECOND = "gptq", "gptq_v2"
_CODES = ".qweight"


def read(config: Mapping[str, Any], tensors: Tensors) -> dict[str, Weight]:
    """Every weight, named as the layer's own `weight`; raises BadArtifact."""
    width, kind = config.get("bits"), config.get("checkpoint_format", _FIRST)
    if type(width) is not int or width not in _WIDTHS:
        raise BadArtifact(f"quantization_config: bits {width!r} of GPTQ must be one of {_WIDTHS}")
    if kind not in (_FIRST, _SECOND):
        raise BadArtifact(f"quantization_config: checkpoint_format {kind!r} is not read; only {_FIRST} and {_SECOND}")
    weights: dict[str, Weight] = {}
    for name in tensors.names():
        if name.endswith(_CODES):
            owner = name.removesuffix(_CODES)
            weights[f"{owner}.weight"] = _weight(owner, tensors, width=width, less_one=kind == _FIRST)
    return weights | {name: Plain(data=tensors.take(name)) for name in tensors.names()}


def _weight(owner: str, tensors: Tensors, *, width: int, less_one: bool) -> Weight:
    words = tensors.take(f"{owner}{_CODES}", dtypes=(torch.int32,), dimensions=(2,))
    scale = tensors.take(f"{owner}.scales", dtypes=FLOATS, dimensions=(2,))
    inputs, outputs, groups = words.shape[0] * 32 // width, words.shape[1], scale.shape[0]
    if not words.numel() or words.shape[0] * 32 % width or not groups or scale.shape[1] != outputs:
        raise BadArtifact(f"tensor {owner + '.scales'!r}: shape {list(scale.shape)} does not fit {list(words.shape)} words")
    numbers = signed(bits.unpack(words.t(), bits=width, count=inputs), bits=width)
    zero = _zero(owner, tensors, groups=groups, outputs=outputs, width=width, less_one=less_one)
    scale = scale.t().to(torch.float32).contiguous()
    order = _order(owner, tensors, inputs=inputs, groups=groups)
    if order is not None:
        dense = scale[:, order] * (numbers.to(torch.float32) - zero.to(torch.float32)[:, order])
        return Plain(data=dense)
    found = Numbers(numbers=numbers, bits=width, scale=scale, zero=zero, shape=(outputs, inputs))
    return weight_of(found, name=f"{owner}.weight")


def _zero(owner: str, tensors: Tensors, *, groups: int, outputs: int, width: int, less_one: bool) -> torch.Tensor:
    """int8 [N, G], shifted as the numbers are."""
    name = f"{owner}.qzeros"
    words = tensors.take(name, dtypes=(torch.int32,))
    wanted = bits.words_of(outputs, bits=width)
    if words.shape != (groups, wanted):
        raise BadArtifact(f"tensor {name!r}: expected [{groups}, {wanted}], the file has {list(words.shape)}")
    stored = bits.unpack(words, bits=width, count=outputs)
    if less_one and bool((stored == (1 << width) - 1).any()):
        raise BadArtifact(f"tensor {name!r}: zero {(1 << width) - 1} less one is 0 or {1 << width}; convert it to {_SECOND}")
    return signed(stored + 1 if less_one else stored, bits=width).t().contiguous()


def _order(owner: str, tensors: Tensors, *, inputs: int, groups: int) -> torch.Tensor | None:
    """The group of each input, where inputs of one do not lie together."""
    name = f"{owner}.g_idx"
    if name not in tensors:
        if inputs % groups:
            raise BadArtifact(
                f"tensor {owner + '.scales'!r}: {groups} groups do not divide {inputs} inputs, and there is no g_idx"
            )
        return None
    order = tensors.take(name, dtypes=(torch.int32, torch.int64)).long()
    if order.shape != (inputs,) or bool(((order < 0) | (order >= groups)).any()):
        raise BadArtifact(f"tensor {name!r}: expected {inputs} groups from 0 to {groups - 1}")
    together = inputs % groups == 0 and torch.equal(order, torch.arange(inputs) // (inputs // groups))
    return None if together else order
