"""compressed-tensors, AWQ and GPTQ files, made here by slow definitions of their own, and read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from modelmill.compress.codecs.coded import CodedWeight
from modelmill.compress.errors import BadArtifact
from modelmill.compress.formats import bits
from modelmill.compress.formats.dense import decoded
from modelmill.compress.formats.folder import read_any

Rows = list[list[int]]


def numbers(rows: int, columns: int, *, width: int, seed: int = 0) -> torch.Tensor:
    """int64, from 0."""
    return torch.randint(0, 1 << width, (rows, columns), generator=torch.Generator().manual_seed(seed))


def scales(rows: int, columns: int) -> torch.Tensor:
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(9)).half().float() + 0.25


def stream(row: list[int], *, width: int) -> list[int]:
    """Words of a row: its codes as one whole number, the first in its lowest bits."""
    whole = sum(code << (index * width) for index, code in enumerate(row))
    return [_signed(whole >> (32 * word) & 0xFFFFFFFF) for word in range(-(-len(row) * width // 32))]


def padded(row: list[int], *, width: int) -> list[int]:
    """32 // width codes a word."""
    each = 32 // width
    parts = [row[start : start + each] for start in range(0, len(row), each)]
    return [_signed(sum(code << (index * width) for index, code in enumerate(part))) for part in parts]


def _signed(word: int) -> int:
    return word - (1 << 32) if word >> 31 else word


def words(codes: torch.Tensor, *, width: int, packing: Callable[..., list[int]] = stream) -> torch.Tensor:
    return torch.tensor([packing(row, width=width) for row in codes.tolist()], dtype=torch.int32)


def folder(path: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"quantization_config": config}))
    return path


def dense_of(codes: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | int) -> torch.Tensor:
    """[N, K] of codes [N, K], scale and zero [N, G], element by element."""
    groups = codes.shape[1] // scale.shape[1]
    wide = [part.repeat_interleave(groups, dim=1) if isinstance(part, torch.Tensor) else part for part in (scale, zero)]
    return wide[0] * (codes.long() - wide[1]).float()


@given(st.integers(1, 8), st.integers(1, 40), st.integers(0, 1 << 20))
@settings(max_examples=40)
def test_codes_are_a_stream_of_bits_and_come_back(width: int, count: int, seed: int) -> None:
    codes = numbers(3, count, width=width, seed=seed)
    packed = bits.pack(codes.to(torch.uint8), bits=width)
    assert torch.equal(packed, words(codes, width=width))
    assert torch.equal(bits.unpack(packed, bits=width, count=count).long(), codes)
    old = words(codes, width=width, packing=padded)
    assert torch.equal(bits.unpack_padded(old, bits=width, count=count).long(), codes)


def group(width: int, **more: Any) -> dict[str, Any]:
    return {"config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": width, "type": "int", **more}}}}


def packed_config(width: int, version: str | None) -> dict[str, Any]:
    said = {} if version is None else {"version": version}
    return {"quant_method": "compressed-tensors", "format": "pack-quantized", **said, **group(width)}


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize(("packing", "version"), [(stream, "0.17.1"), (padded, "0.16.0"), (padded, None), (stream, None)])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_both_packings_of_every_width_are_read(
    width: int, packing: Callable[..., list[int]], version: str | None, asymmetric: bool, tmp_path: Path
) -> None:
    codes, scale, zero = numbers(5, 96, width=width), scales(5, 3), numbers(5, 3, width=width, seed=1)
    stored = {
        "fc.weight_packed": words(codes, width=width, packing=packing),
        "fc.weight_scale": scale.bfloat16().float().bfloat16(),
        "fc.weight_shape": torch.tensor([5, 96]),
        "fc.bias": torch.ones(5),
    }
    if asymmetric:
        stored["fc.weight_zero_point"] = words(zero.t(), width=width, packing=packing).t()
    read = read_any(folder(tmp_path, packed_config(width, version), stored)).tensors
    weight = read["fc.weight"]
    assert isinstance(weight, CodedWeight)
    assert weight.bits == {1: 1, 2: 2, 3: 4, 4: 4}.get(width, 8)
    expected = dense_of(codes, scale.bfloat16().float(), zero if asymmetric else 1 << (width - 1))
    assert torch.equal(weight.decode(), expected)
    assert torch.equal(decoded(read["fc.bias"]), torch.ones(5))


@pytest.mark.parametrize("shape", [(5, 12), (5, 3, 2, 2)])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_int8_is_read_with_any_shape_of_scale(shape: tuple[int, ...], granularity: str, tmp_path: Path) -> None:
    codes = torch.randint(-128, 128, shape, dtype=torch.int8)
    scale = torch.tensor([0.5]) if granularity == "tensor" else scales(5, 1).view(5, *(1,) * (len(shape) - 1))
    config = {"quant_method": "compressed-tensors", "format": "int-quantized", **group(8)}
    stored = {"c.weight": codes, "c.weight_scale": scale, "c.input_scale": torch.ones(1)}
    read = read_any(folder(tmp_path, config, stored)).tensors
    assert read.keys() == {"c.weight"}
    assert torch.equal(decoded(read["c.weight"]), codes.float() * scale)


def test_int8_with_groups_and_zeros_is_read(tmp_path: Path) -> None:
    codes, scale, zero = torch.randint(-128, 128, (4, 12), dtype=torch.int8), scales(4, 3), numbers(4, 3, width=4).to(torch.int8)
    config = {"quant_method": "compressed-tensors", "format": "int-quantized", **group(8)}
    stored = {"c.weight": codes, "c.weight_scale": scale, "c.weight_zero_point": zero}
    read = read_any(folder(tmp_path, config, stored)).tensors
    assert torch.equal(decoded(read["c.weight"]), dense_of(codes, scale, zero))


def test_8_bit_floats_are_read_as_floats(tmp_path: Path) -> None:
    codes, scale = torch.randn(4, 8).to(torch.float8_e4m3fn), scales(4, 1)
    config = {"quant_method": "compressed-tensors", "format": "float-quantized", **group(8)}
    read = read_any(folder(tmp_path, config, {"c.weight": codes, "c.weight_scale": scale})).tensors
    assert torch.equal(decoded(read["c.weight"]), codes.float() * scale)


def test_a_group_with_scale_0_is_one_of_zeros(tmp_path: Path) -> None:
    config = {"quant_method": "compressed-tensors", "format": "int-quantized", **group(8)}
    stored = {"c.weight": torch.ones(2, 4, dtype=torch.int8), "c.weight_scale": torch.tensor([[0.0], [1.0]])}
    weight = read_any(folder(tmp_path, config, stored)).tensors["c.weight"]
    assert torch.equal(decoded(weight), torch.tensor([[0.0] * 4, [1.0] * 4]))


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 8, "zero_point": True, "version": "gemm"}


def awq_words(codes: torch.Tensor) -> torch.Tensor:
    """[R, N] as [R, N / 8]: place i of a word has channel (0, 2, 4, 6, 1, 3, 5, 7)[i]."""
    mixed = [
        [row[start + place] for start in range(0, len(row), 8) for place in (0, 2, 4, 6, 1, 3, 5, 7)] for row in codes.tolist()
    ]
    return words(torch.tensor(mixed), width=4)


def test_awq_is_read(tmp_path: Path) -> None:
    codes, scale, zero = numbers(16, 24, width=4), scales(16, 3), numbers(16, 3, width=4, seed=1)
    stored = {"l.qweight": awq_words(codes.t()), "l.qzeros": awq_words(zero.t()), "l.scales": scale.t().half()}
    weight = read_any(folder(tmp_path, AWQ, stored)).tensors["l.weight"]
    assert isinstance(weight, CodedWeight) and weight.bits == 4
    assert torch.equal(weight.decode(), dense_of(codes, scale.half().float(), zero))


@pytest.mark.parametrize("width", [2, 3, 4, 8])
@pytest.mark.parametrize("kind", ["gptq", "gptq_v2", None])
def test_gptq_is_read(width: int, kind: str | None, tmp_path: Path) -> None:
    first = kind != "gptq_v2"
    codes, scale, zero = numbers(32, 64, width=width), scales(32, 4), numbers(32, 4, width=width, seed=1).clamp_min(1)
    stored = {
        "l.qweight": words(codes, width=width).t(),
        "l.qzeros": words(zero.t() - int(first), width=width),
        "l.scales": scale.t().half(),
        "l.g_idx": (torch.arange(64) // 16).int(),
    }
    config = {"quant_method": "gptq", "bits": width, "group_size": 16} | ({} if kind is None else {"checkpoint_format": kind})
    weight = read_any(folder(tmp_path, config, stored)).tensors["l.weight"]
    assert isinstance(weight, CodedWeight)
    assert torch.equal(weight.decode(), dense_of(codes, scale.half().float(), zero))


def test_gptq_ordered_by_activations_is_decoded(tmp_path: Path) -> None:
    codes, scale, zero = numbers(32, 64, width=4), scales(32, 4), numbers(32, 4, width=4, seed=1).clamp_min(1)
    order = torch.arange(64)[torch.randperm(64)] // 16
    stored = {
        "l.qweight": words(codes, width=4).t(),
        "l.qzeros": words(zero.t() - 1, width=4),
        "l.scales": scale.t(),
        "l.g_idx": order.int(),
    }
    weight = read_any(folder(tmp_path, {"quant_method": "gptq", "bits": 4}, stored)).tensors["l.weight"]
    assert torch.equal(decoded(weight), scale[:, order] * (codes - zero[:, order]))


PACKED = {
    "m.weight_packed": torch.zeros(2, 4, dtype=torch.int32),
    "m.weight_scale": torch.ones(2, 1),
    "m.weight_shape": torch.tensor([2, 32]),
}
GPTQ = {"quant_method": "gptq", "bits": 4}
QUANTIZED = {
    "l.qweight": torch.zeros(4, 8, dtype=torch.int32),
    "l.qzeros": torch.zeros(2, 1, dtype=torch.int32),
    "l.scales": torch.ones(2, 8),
}


@pytest.mark.parametrize(
    ("config", "stored", "told"),
    [
        ({"quant_method": "spqr"}, {}, "quant_method 'spqr' is not known; use one of compressed-tensors, awq, gptq"),
        ({"quant_method": ["awq"]}, {}, "is not known"),
        ({"quant_method": "compressed-tensors", "format": "marlin-24"}, {}, "format 'marlin-24'"),
        ({"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-24-bitmask"}}, {}, "decompress the model"),
        (packed_config(4, "0.18"), PACKED | {"m.weight_shape": torch.tensor([2, 1 << 40])}, "does not fit"),
        (packed_config(4, "0.18"), PACKED | {"m.weight_shape": torch.tensor([2, 100])}, "none of them fits"),
        (packed_config(8, "0.18"), PACKED, "config_groups speak of 8 bits, and none of them fits"),
        (packed_config(4, "0.18"), PACKED | {"m.weight_scale": torch.ones(3, 1)}, "is no scale or zero point of"),
        (packed_config(4, "0.18"), PACKED | {"m.weight_scale": torch.full((2, 1), torch.nan)}, "scales must be finite"),
        (packed_config(4, "0.18"), PACKED | {"m.weight_zero_point": torch.zeros(2, 2).int()}, "expected .1, 1. packed words"),
        (packed_config(4, "0.18"), PACKED | {"m.weight_g_idx": torch.zeros(32).int()}, "ordered by activations"),
        (AWQ | {"bits": 3}, {}, "only 4 bits, gemm"),
        (AWQ, QUANTIZED, "does not fit"),
        (GPTQ | {"bits": 5}, {}, "must be one of"),
        (GPTQ | {"checkpoint_format": "marlin"}, {}, "only gptq and gptq_v2"),
        (GPTQ, QUANTIZED | {"l.qzeros": torch.full((2, 1), -1).int()}, "zero 15 less one is 0 or 16"),
        (GPTQ, QUANTIZED | {"l.g_idx": torch.full((32,), 2).int()}, "expected 32 groups from 0 to 1"),
        (GPTQ, {"l.qweight": torch.zeros(4, 8).int()}, "tensor 'l.scales': is needed, but not stored"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    config: dict[str, Any], stored: dict[str, torch.Tensor], told: str, tmp_path: Path
) -> None:
    with pytest.raises(BadArtifact, match=told):
        read_any(folder(tmp_path, config, stored))


def test_several_files_with_an_index_are_one_model(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "1.safetensors")
    save_file({"b": torch.zeros(2)}, tmp_path / "2.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}))
    assert read_any(tmp_path).tensors.keys() == {"a", "b"}
    for listed, told in (
        ({"a": "../1.safetensors"}, "is no file of the folder"),
        ({"c": "1.safetensors"}, "'c' is not in the file"),
    ):
        index.write_text(json.dumps({"weight_map": listed}))
        with pytest.raises(BadArtifact, match=told):
            read_any(tmp_path)
