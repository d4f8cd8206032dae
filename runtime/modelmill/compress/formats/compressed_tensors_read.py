"""Reads compressed-tensors: int-quantized, pack-quantized in the old and the new packing, float-quantized, naive-quantized.

A file's tensors tell nearly everything: the scale's shape is the granularity, a zero point is there or not. Of the configuration
only the number of bits is taken, and from all its groups: the one that fits the packed width. Regular expressions of a
stranger, which is how groups name their layers, are never run. Version, where it is said, tells the packing: padded
before 0.17, a stream of bits since; else the packed width does.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch

from modelmill.compress.codes import rows_of
from modelmill.compress.errors import BadArtifact
from modelmill.compress.formats import bits
from modelmill.compress.formats.numbers import FLOATS, Numbers, signed, weight_of
from modelmill.compress.formats.tensors import Tensors
from modelmill.compress.weights import Plain, Weight

METHOD = "compressed-tensors"
_SUPPORTED = ("dense", "int-quantized", "pack-quantized", "float-quantized", "naive-quantized", "mixed-precision")
_STREAM_SINCE = (0, 17)
_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
_IGNORED = ("input_scale", "input_zero_point", "output_scale", "output_zero_point")


def read(config: Mapping[str, Any], tensors: Tensors) -> dict[str, Weight]:
    """Every weight; raises BadArtifact for what does not fit together or has no form here."""
    found = config.get("format", "dense")
    if found not in _SUPPORTED:
        raise BadArtifact(f"format {found!r} of {METHOD} is not read; use one of {', '.join(_SUPPORTED)}")
    sparsity = config.get("sparsity_config")
    if isinstance(sparsity, dict) and sparsity.get("format", "dense") != "dense":
        raise BadArtifact(f"sparsity_config: format {sparsity['format']!r} is not read; decompress the model first")
    known, version = _widths(config), _version(config)
    weights: dict[str, Weight] = {}
    for name in tensors.names():
        if name.endswith(".weight_packed"):
            weight = name.removesuffix("_packed")
            weights[weight] = _packed(weight, tensors, known=known, version=version)
    for name in tensors.names():
        if name.endswith(".weight") and f"{name}_scale" in tensors:
            weights[name] = _plain_codes(name, tensors)
    for name in tensors.names():
        if name.rpartition(".")[2] in _IGNORED:  # ours find their own scales
            tensors.take(name)
        else:
            weights[name] = Plain(data=tensors.take(name))
    return weights


def _widths(config: Mapping[str, Any]) -> set[int]:
    """Numbers of bits that the groups speak of."""
    groups = config.get("config_groups")
    schemes = list(groups.values()) if isinstance(groups, dict) else []
    found = (scheme.get("weights") for scheme in schemes if isinstance(scheme, dict))
    widths = {args.get("num_bits", 8) for args in found if isinstance(args, dict) and type(args.get("num_bits", 8)) is int}
    return {width for width in widths if 1 <= width <= 8}


def _version(config: Mapping[str, Any]) -> tuple[int, int] | None:
    matched = re.match(r"(\d{1,4})\.(\d{1,4})", str(config.get("version", "")))
    return (int(matched[1]), int(matched[2])) if matched else None


def _packed(name: str, tensors: Tensors, *, known: set[int], version: tuple[int, int] | None) -> Weight:
    words = tensors.take(f"{name}_packed", dtypes=(torch.int32,), dimensions=(2,))
    shape = tensors.take(f"{name}_shape", dtypes=(torch.int64, torch.int32), dimensions=(1,)).tolist()
    if f"{name}_g_idx" in tensors:
        raise BadArtifact(f"tensor {name + '_g_idx'!r}: weights ordered by activations are not read; quantize without actorder")
    outputs = words.shape[0]
    if len(shape) != 2 or not outputs or shape[0] != outputs or shape[1] < 1 or shape[1] > words.shape[1] * 32:
        raise BadArtifact(f"tensor {name + '_shape'!r}: {shape} does not fit {list(words.shape)} packed words")
    width, padded = _packing(name, int(shape[1]), words.shape[1], known=known, version=version)
    unpack = bits.unpack_padded if padded else bits.unpack
    numbers = signed(unpack(words, bits=width, count=int(shape[1])), bits=width)
    scale = _scale(name, tensors, outputs=outputs, inputs=int(shape[1]))
    zero = _zero(name, tensors, scale=scale, width=width, padded=padded)
    return weight_of(Numbers(numbers=numbers, bits=width, scale=scale, zero=zero, shape=(outputs, int(shape[1]))), name=name)


def _packing(name: str, inputs: int, words: int, *, known: set[int], version: tuple[int, int] | None) -> tuple[int, bool]:
    """Bits of a code, and whether it is the padded packing."""
    said = [] if version is None else _fits(inputs, words, known=known, padded=version < _STREAM_SINCE)
    fits = said or [*_fits(inputs, words, known=known, padded=False), *_fits(inputs, words, known=known, padded=True)]
    different = {(width, padded and not _same(inputs, width)) for width, padded in fits}
    if len(different) != 1:
        told = ", ".join(map(str, sorted(known))) or "none"
        raise BadArtifact(
            f"tensor {name + '_packed'!r}: {words} words a row for {inputs} inputs; config_groups speak of {told} bits, and "
            f"{'more than one packing' if fits else 'none of them'} fits: it must give a version and the right num_bits"
        )
    return different.pop()


def _fits(inputs: int, words: int, *, known: set[int], padded: bool) -> list[tuple[int, bool]]:
    count = bits.padded_words_of if padded else bits.words_of
    return [(width, padded) for width in sorted(known) if count(inputs, bits=width) == words]


def _same(inputs: int, width: int) -> bool:
    """Both packings are one where codes fill a word, or all are in the first."""
    return 32 % width == 0 or inputs <= 32 // width


def _scale(name: str, tensors: Tensors, *, outputs: int, inputs: int) -> torch.Tensor:
    """float32 [N, G], whatever the strategy."""
    stored = tensors.take(f"{name}_scale", dtypes=FLOATS)
    return _by_group(f"{name}_scale", stored, outputs=outputs, inputs=inputs).to(torch.float32)


def _by_group(name: str, stored: torch.Tensor, *, outputs: int, inputs: int) -> torch.Tensor:
    if stored.numel() == 1:
        return stored.reshape(1, 1).expand(outputs, 1).contiguous()
    groups = stored.numel() // outputs if stored.dim() and stored.shape[0] == outputs else 0
    if groups < 1 or inputs % groups:
        raise BadArtifact(f"tensor {name!r}: shape {list(stored.shape)} is no scale or zero point of [{outputs}, {inputs}]")
    return stored.reshape(outputs, groups)


def _zero(name: str, tensors: Tensors, *, scale: torch.Tensor, width: int, padded: bool) -> torch.Tensor | None:
    """int8 [N, G]: packed along N, or as it is."""
    stored_name = f"{name}_zero_point"
    if stored_name not in tensors:
        return None
    outputs, groups = scale.shape
    stored = tensors.take(stored_name, dtypes=(torch.int32, torch.int8))
    if stored.dtype == torch.int8:
        return _by_group(stored_name, stored, outputs=outputs, inputs=groups).expand(outputs, groups).contiguous()
    words = bits.padded_words_of(outputs, bits=width) if padded else bits.words_of(outputs, bits=width)
    if stored.shape != (words, groups):
        raise BadArtifact(f"tensor {stored_name!r}: expected [{words}, {groups}] packed words, the file has {list(stored.shape)}")
    unpack = bits.unpack_padded if padded else bits.unpack
    return signed(unpack(stored.t().contiguous(), bits=width, count=outputs), bits=width).t().contiguous()


def _plain_codes(name: str, tensors: Tensors) -> Weight:
    """int8 codes become codes; 8-bit floats become the floats that they stand for."""
    stored = tensors.take(name, dtypes=(torch.int8, *_FLOAT8), dimensions=(2, 3, 4, 5))
    if not stored.numel():
        raise BadArtifact(f"tensor {name!r}: shape {list(stored.shape)} has no values")
    outputs, inputs = stored.shape[0], stored[0].numel()
    scale = _scale(name, tensors, outputs=outputs, inputs=inputs)
    if stored.dim() > 2 and scale.shape[1] > 1:
        raise BadArtifact(f"tensor {name + '_scale'!r}: groups within a convolution are not read")
    if stored.dtype in _FLOAT8:
        dense = stored.to(torch.float32).flatten(1).view(outputs, scale.shape[1], -1) * scale[..., None]
        return Plain(data=dense.reshape(stored.shape))
    zero = _zero(name, tensors, scale=scale, width=8, padded=False)
    return weight_of(Numbers(numbers=rows_of(stored), bits=8, scale=scale, zero=zero, shape=tuple(stored.shape)), name=name)
