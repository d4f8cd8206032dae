"""What we export to compressed-tensors, loaded by the real package: bit for bit what we decode. And its files, read by us."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from compressed_tensors.compressors import BaseCompressor, ModelCompressor
    from compressed_tensors.entrypoints.convert.converters.autoawq import AutoAWQConverter
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config

from modelmill.compress.codecs.coded import CodedWeight
from modelmill.compress.formats import compressed_tensors
from modelmill.compress.formats.dense import decoded
from modelmill.compress.formats.folder import read_any
from modelmill.compress.grids.uniform import Uniform
from modelmill.compress.weights import Plain, Weight

SIZES = [(32, 64), (20, 96)]
SCHEMES = [
    Uniform(bits=bits, granularity=granularity, group_size=16, symmetric=symmetric)
    for bits in range(2, 9)
    for granularity in ("Tensor", "Channel", "Group")
    for symmetric in (True, False)
]


def weight_of(shape: tuple[int, int], grid: Uniform) -> CodedWeight:
    return CodedWeight.of(grid.encode(torch.randn(shape), name="w"))


def words(rows: int, columns: int) -> torch.Tensor:
    return torch.randint(-(1 << 31), (1 << 31) - 1, (rows, columns), dtype=torch.int32)


def model(names: list[str]) -> nn.Module:
    return nn.ModuleDict({name: nn.Linear(SIZES[index % 2][1], SIZES[index % 2][0]) for index, name in enumerate(names)})


def test_the_real_package_loads_and_decompresses_a_model_of_every_scheme(tmp_path: Path) -> None:
    names = [f"layer{index}" for index in range(len(SCHEMES))]
    weights: dict[str, Weight] = {}
    for index, (name, grid) in enumerate(zip(names, SCHEMES, strict=True)):
        weights[f"{name}.weight"] = weight_of(SIZES[index % 2], grid)
        weights[f"{name}.bias"] = Plain(data=torch.randn(SIZES[index % 2][0]))
    assert compressed_tensors.export(weights, tmp_path, strict=True) == []
    said = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    # As transformers' own loader does: these are no fields of theirs.
    said = {key: value for key, value in said.items() if key not in ("version", "sparsity_config", "transform_config")}
    config = QuantizationConfig.model_validate(said)
    theirs = model(names)
    apply_quantization_config(theirs, config)
    compressor = ModelCompressor(quantization_config=config)
    compressor.compress_model(theirs)
    missing, unexpected = theirs.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=False, assign=True)
    assert not unexpected and not missing
    compressor.decompress_model(theirs)
    for name, weight in weights.items():
        assert torch.equal(theirs.get_parameter(name), decoded(weight)), name


@pytest.mark.parametrize("grid", SCHEMES, ids=lambda grid: f"{grid.bits}-{grid.granularity}-{grid.symmetric}")
def test_what_the_real_package_compresses_is_read_as_it_decompresses(grid: Uniform, tmp_path: Path) -> None:
    compressed_tensors.export({"fc.weight": weight_of((20, 96), grid)}, tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    scheme = QuantizationConfig.model_validate({"config_groups": said["config_groups"]}).config_groups["group_0"]
    stored = {key.removeprefix("fc."): value for key, value in load_file(tmp_path / "model.safetensors").items()}
    real = BaseCompressor.get_value_from_registry(scheme.format)
    floats = real.decompress(stored, scheme)
    again = real.compress(floats, scheme)
    assert again.keys() == stored.keys()
    assert all(torch.equal(again[name], stored[name]) for name in stored), "it compresses to the bytes that we write"
    save_file({f"fc.{name}": tensor.contiguous() for name, tensor in again.items()}, tmp_path / "model.safetensors")
    assert torch.equal(decoded(read_any(tmp_path).tensors["fc.weight"]), floats["weight"])


def test_awq_means_to_us_what_it_means_to_the_real_package(tmp_path: Path) -> None:
    stored = {
        "l.qweight": words(64, 4),
        "l.qzeros": words(4, 4),
        "l.scales": torch.rand(4, 32).half(),
    }
    config = {"quant_method": "awq", "bits": 4, "group_size": 16, "zero_point": True, "version": "gemm"}
    save_file(stored, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": config}))
    ours = decoded(read_any(tmp_path).tensors["l.weight"])
    converter = AutoAWQConverter(group_size=16)
    converted = {name.removeprefix("l."): tensor for name, tensor in converter.process(dict(stored)).items()}
    converted["weight_scale"] = converted["weight_scale"].float()
    scheme = converter._build_quant_config().config_groups["config_group_0"]
    real = BaseCompressor.get_value_from_registry("pack-quantized")
    assert torch.equal(real.decompress(converted, scheme)["weight"], ours)
