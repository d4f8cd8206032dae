"""The layout of codes below 8 bits, in the file and for the kernels alike (docs/design/0008-compression.md).

A tile is 64 bytes: 16 rows x 4 inputs, for each of P = 8 / bits steps. Byte 4 * i + j holds, at bit p * bits, the code of
row i of the tile and input 4 * p + j of its 4 * P inputs. Rows and inputs are padded with code 0.
"""

import torch
from torch.nn import functional

ROWS, LANES = 16, 4
"""Of a tile."""


def inputs_of(bits: int) -> int:
    """Inputs in one tile."""
    return LANES * 8 // bits


def pack(codes: torch.Tensor, *, bits: int) -> torch.Tensor:
    """uint8 codes [N, K] below 2 ** bits as tiles uint8 [N / 16, K / inputs_of(bits), 64], both rounded up."""
    steps, wide = 8 // bits, inputs_of(bits)
    rows, inputs = codes.shape
    padded = functional.pad(codes, (0, -inputs % wide, 0, -rows % ROWS))
    split = padded.view(padded.shape[0] // ROWS, ROWS, padded.shape[1] // wide, steps, LANES)
    tiles = torch.zeros_like(split[..., 0, :])
    for step in range(steps):
        tiles |= split[..., step, :] << (step * bits)
    return tiles.transpose(1, 2).reshape(*split.shape[::2][:2], ROWS * LANES)


def unpack(tiles: torch.Tensor, *, bits: int, start: int, stop: int, inputs: int) -> torch.Tensor:
    """The codes uint8 [stop - start, inputs] of some rows; only their tiles are looked at."""
    first = start // ROWS
    part = tiles[first : -(-stop // ROWS)]
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=tiles.device)
    steps = (part.view(*part.shape[:2], ROWS, 1, LANES) >> shifts[:, None]) & ((1 << bits) - 1)
    rows = steps.transpose(1, 2).reshape(part.shape[0] * ROWS, -1)
    return rows[start - first * ROWS : stop - first * ROWS, :inputs]


def tile_rows(values: torch.Tensor) -> torch.Tensor:
    """Values [N, G] of rows as [N / 16 rounded up, G, 16], padded with zeros."""
    padded = functional.pad(values, (0, 0, 0, -values.shape[0] % ROWS))
    return padded.view(-1, ROWS, values.shape[1]).transpose(1, 2).contiguous()


def untile_rows(values: torch.Tensor, *, start: int, stop: int) -> torch.Tensor:
    """The [stop - start, G] of some rows."""
    first = start // ROWS
    part = values[first : -(-stop // ROWS)].transpose(1, 2).flatten(0, 1)
    return part[start - first * ROWS : stop - first * ROWS]
