"""Valid weights files of every codec, small: what the fuzzer starts from."""

import sys
from pathlib import Path
from typing import Any

import torch

from modelmill.compress.codecs.blocks import BlockWeight
from modelmill.compress.codecs.coded import CodedWeight
from modelmill.compress.codecs.signs import SignCodes, SignWeight
from modelmill.compress.codecs.sparse import SparseWeight
from modelmill.compress.grids.binary import Binary
from modelmill.compress.grids.grid import Grid
from modelmill.compress.grids.kmeans import KMeans
from modelmill.compress.grids.residue import Residue
from modelmill.compress.grids.ternary import Ternary
from modelmill.compress.grids.uniform import Uniform
from modelmill.compress.grids.xnor import Xnor
from modelmill.compress.weights import Plain, Weight, write_weights

SHAPES = ((5, 12), (16, 8), (3, 3, 2, 2))
GRIDS: list[Grid] = [Uniform(bits=bits, symmetric=symmetric) for bits in (2, 3, 4, 8) for symmetric in (True, False)]
GRIDS += [Uniform(bits=bits, granularity="Group", group_size=4) for bits in (4, 8)]
GRIDS += [KMeans(clusters=4), KMeans(clusters=256), Residue(modulus=251), Ternary(), Binary()]
STRUCTURE: list[dict[str, Any]] = [
    {"edit": "resize", "path": "conv", "outputs": 2},
    {"edit": "resize", "path": "norm", "outputs": 2},
    {"edit": "fold", "path": "conv", "norm": "norm"},
    {"edit": "factor", "path": "fc", "rank": 2},
    {"edit": "attribute", "path": "", "name": "heads", "value": 1},
]
"""Of `fuzz_weights.Small`."""


def write(folder: Path) -> int:
    """One file for each weight, and one with everything; how many."""
    torch.manual_seed(0)
    weights: dict[str, Weight] = {
        "float": Plain(data=torch.ones(3)),
        "none": Plain(data=torch.ones(0, 4)),
        "bool": Plain(data=torch.tensor([True, False])),
        "half": Plain(data=torch.ones(2, dtype=torch.bfloat16), codec="bfloat16"),
    }
    for index, grid in enumerate(GRIDS):
        grouped = isinstance(grid, Uniform) and grid.granularity == "Group"
        shape = SHAPES[0] if grouped else SHAPES[index % len(SHAPES)]
        weights[f"w{index}"] = CodedWeight.of(grid.encode(torch.randn(shape), name="w"))
    pruned = torch.randn(32, 8)
    pruned[:, 2:4] = pruned[:, 6:] = 0
    for int8 in (Uniform(), None):
        for height in (4, 16):
            weights[f"blocks{height}{int8 is None}"] = BlockWeight.of(pruned, height=height, int8=int8, name="w")
        for pattern in ("2:4", "mask"):
            weights[f"sparse{pattern[0]}{int8 is None}"] = SparseWeight.of(pruned, pattern=pattern, int8=int8, name="w")
    weights["signs"] = SignWeight.of(Xnor().encode(torch.randn(5, 70), name="w"))
    weights["sign-codes"] = SignCodes.of(Xnor().encode(torch.randn(3, 4, 2, 2), name="w"))
    folder.mkdir(parents=True, exist_ok=True)
    for name, weight in weights.items():
        write_weights(folder / name, {name: weight})
    write_weights(folder / "all", weights, structure=STRUCTURE)
    return len(weights) + 1


if __name__ == "__main__":
    write(Path(sys.argv[1]))
