"""Exports: what is written to compressed-tensors comes back through our reader. (tests/formats asks the real package.)"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modelmill.compress.codecs.coded import CodedWeight
from modelmill.compress.codes import Codes
from modelmill.compress.errors import CompressionError
from modelmill.compress.formats import compressed_tensors, dense
from modelmill.compress.formats.folder import read_any
from modelmill.compress.grids.uniform import Uniform
from modelmill.compress.weights import Plain, Weight


def weight_of(shape: tuple[int, ...], grid: Uniform) -> CodedWeight:
    return CodedWeight.of(grid.encode(torch.randn(shape, generator=torch.Generator().manual_seed(3)), name="w"))


def with_levels(levels: list[int], *, bits: int) -> CodedWeight:
    table = torch.tensor(levels + [0] * ((1 << bits) - len(levels)), dtype=torch.int8)
    codes = torch.randint(0, len(levels), (20, 24), generator=torch.Generator().manual_seed(4)).to(torch.uint8)
    return CodedWeight.of(Codes(grid="Own", codes=codes, bits=bits, scale=torch.rand(20, 1) + 0.1, shape=(20, 24), levels=table))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("granularity", ["Tensor", "Channel", "Group"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_uniform_weights_come_back_as_they_were(bits: int, granularity: str, symmetric: bool, tmp_path: Path) -> None:
    grid = Uniform(bits=bits, granularity=granularity, group_size=8, symmetric=symmetric)  # type: ignore[arg-type]
    weight = weight_of((18, 40), grid)
    weights: dict[str, Weight] = {"fc.weight": weight, "fc.bias": Plain(data=torch.randn(18))}
    assert compressed_tensors.export(weights, tmp_path, strict=True) == []
    read = read_any(tmp_path).tensors
    assert torch.equal(dense.decoded(read["fc.weight"]), weight.decode())
    assert torch.equal(dense.decoded(read["fc.bias"]), dense.decoded(weights["fc.bias"]))
    args = json.loads((tmp_path / "config.json").read_text())["quantization_config"]["config_groups"]["group_0"]
    assert args["targets"] == ["fc"] and args["weights"]["num_bits"] == bits
    whole = bits == 8 and symmetric and granularity != "Group"
    assert args["format"] == ("int-quantized" if whole else "pack-quantized")


@pytest.mark.parametrize(("levels", "bits", "wide"), [([-1, 1], 1, 2), ([-1, 0, 1], 2, 2), ([-127, -20, 3, 127], 2, 8)])
def test_levels_of_any_grid_take_the_bits_that_hold_them(levels: list[int], bits: int, wide: int, tmp_path: Path) -> None:
    weight = with_levels(levels, bits=bits)
    notes = compressed_tensors.export({"fc.weight": weight}, tmp_path)
    assert notes == ([] if wide == bits else [f"fc.weight: {bits} bits of Own written as {wide}, which is what its levels take"])
    assert torch.equal(dense.decoded(read_any(tmp_path).tensors["fc.weight"]), weight.decode())


def test_convolutions_are_written_dense_and_said_so_or_refused(tmp_path: Path) -> None:
    weight = weight_of((8, 3, 3, 3), Uniform())
    (note,) = compressed_tensors.export({"conv.weight": weight}, tmp_path)
    assert note == "conv.weight: written dense, only linear layers are quantized there"
    assert torch.equal(load_file(tmp_path / "model.safetensors")["conv.weight"], weight.decode())
    with pytest.raises(CompressionError, match=r"conv\.weight: written dense.*--to dense"):
        compressed_tensors.export({"conv.weight": weight}, tmp_path / "strict", strict=True)
    assert not (tmp_path / "strict").exists()


def test_layers_of_one_scheme_are_one_group(tmp_path: Path) -> None:
    four, eight = Uniform(bits=4, granularity="Group", group_size=8), Uniform()
    weights = {f"{name}.weight": weight_of((16, 16), grid) for name, grid in (("a", four), ("b", eight), ("c", four))}
    compressed_tensors.export(weights, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert config["format"] == "mixed-precision"
    assert [group["targets"] for group in config["config_groups"].values()] == [["a", "c"], ["b"]]


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("shape", [(20, 24), (6, 3, 3, 3)])
def test_dense_has_every_weight_decoded(bits: int, shape: tuple[int, ...], tmp_path: Path) -> None:
    weight = weight_of(shape, Uniform(bits=bits, symmetric=bits != 2))
    rounded = Plain(data=torch.ones(3, dtype=torch.bfloat16), codec="bfloat16")
    dense.export({"w": weight, "b": rounded}, tmp_path / "out" / "w.safetensors")
    read = load_file(tmp_path / "out" / "w.safetensors")
    assert torch.equal(read["w"], weight.decode()) and torch.equal(read["b"], rounded.data)
