"""Tiles: the order in which kernels read codes, scales and zeros.

With P = 8 / bits codes in a byte, byte `4 * i + j` of `tile[N/16, K/(4*P), 64]` holds for p = 0..P-1, at bit `p * bits`, the
code of row `16 * tile + i` and input `4 * P * block + 4 * p + j`: 64 bytes are 16 rows x 4 inputs for each p. N and K are
padded with code 0 up to whole tiles: products of padded inputs meet activations of 0, padded rows are cut off.
"""

import torch
from torch.nn import functional

from modelmill.compress.errors import CompressionError

ROWS = 16
BYTES = 64
QUAD = 4
"""Inputs that lie side by side in a tile."""
BITS = (1, 2, 4, 8)


def phases(bits: int) -> int:
    """Codes in a byte. Raises CompressionError for other bits than 1, 2, 4 and 8."""
    if bits not in BITS:
        raise CompressionError(f"bits is {bits}: codes take 1, 2, 4 or 8 bits")
    return 8 // bits


def tiled_shape(rows: int, inputs: int, bits: int) -> tuple[int, int, int]:
    """Of the tiles of [rows, inputs] codes."""
    return -(-rows // ROWS), -(-inputs // (QUAD * phases(bits))), BYTES


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes uint8 [N, K], each below 2 ** bits, as tiles uint8 [N/16, K/(4*P), 64].

    Raises CompressionError where a code does not fit.
    """
    count = phases(bits)
    if codes.dtype != torch.uint8 or codes.dim() != 2:
        raise CompressionError(f"codes are {codes.dtype} {list(codes.shape)}: pack takes uint8 [rows, inputs]")
    if codes.numel() and int(codes.max()) >= 1 << bits:
        raise CompressionError(f"a code is {int(codes.max())}: {bits} bits hold 0 to {(1 << bits) - 1}")
    tiles, blocks, _ = tiled_shape(codes.shape[0], codes.shape[1], bits)
    padded = functional.pad(codes, (0, blocks * QUAD * count - codes.shape[1], 0, tiles * ROWS - codes.shape[0]))
    split = padded.view(tiles, ROWS, blocks, count, QUAD)
    packed = split[:, :, :, 0].clone()
    for phase in range(1, count):
        packed |= split[:, :, :, phase] << (phase * bits)
    return packed.transpose(1, 2).reshape(tiles, blocks, BYTES)


def unpack(tiles: torch.Tensor, *, bits: int, rows: int, inputs: int, start: int = 0, stop: int | None = None) -> torch.Tensor:
    """The codes uint8 of rows `start` to `stop` (all when not given), [stop - start, inputs]: what `pack` was given.

    Raises CompressionError where the tiles are not those of [rows, inputs] codes.
    """
    expected = tiled_shape(rows, inputs, bits)
    if tuple(tiles.shape) != expected:
        raise CompressionError(f"tiles are {list(tiles.shape)}: [{rows}, {inputs}] codes of {bits} bits take {list(expected)}")
    stop = rows if stop is None else min(stop, rows)
    first, last = start // ROWS, -(-stop // ROWS)
    packed = tiles[first:last].view(torch.uint8).view(-1, expected[1], ROWS, QUAD).transpose(1, 2)
    mask = (1 << bits) - 1
    parts = [(packed >> (phase * bits)) & mask for phase in range(phases(bits))]
    codes = torch.stack(parts, dim=3).reshape((last - first) * ROWS, -1)
    return codes[start - first * ROWS : stop - first * ROWS, :inputs]


def prepare8(codes: torch.Tensor) -> torch.Tensor:
    """Codes of 8 bits, int8 or uint8 [N, K] as a file holds them, in tiles of the same type: done once, at load."""
    if codes.dtype not in (torch.int8, torch.uint8) or codes.dim() != 2:
        raise CompressionError(f"codes are {codes.dtype} {list(codes.shape)}: 8 bits are int8 or uint8 [rows, inputs]")
    codes = codes.contiguous()
    rows, inputs = codes.shape
    # In another writer's file a tensor may begin anywhere.
    if rows % ROWS or inputs % QUAD or not codes.numel() or codes.storage_offset() % QUAD:
        return pack(codes.view(torch.uint8), 8).view(codes.dtype)
    tiles, blocks, _ = tiled_shape(rows, inputs, 8)
    # Four inputs move together: a third of the time of `pack`.
    quads = codes.view(torch.int32).view(tiles, ROWS, blocks).transpose(1, 2).contiguous()
    return quads.view(codes.dtype).view(tiles, blocks, BYTES)


def tile_scales(values: torch.Tensor) -> torch.Tensor:
    """Scales (or zeros) [N, G] as [N/16, G, 16]; rows beyond N are 0."""
    rows, groups = values.shape
    tiles = -(-rows // ROWS)
    return functional.pad(values, (0, 0, 0, tiles * ROWS - rows)).view(tiles, ROWS, groups).transpose(1, 2).contiguous()


def untile_scales(values: torch.Tensor, rows: int) -> torch.Tensor:
    """The inverse of `tile_scales`: [N, G]."""
    return values.transpose(1, 2).reshape(-1, values.shape[1])[:rows]


def conv_rows(codes: torch.Tensor, shape: tuple[int, int, int, int], fill: int = 0) -> torch.Tensor:
    """Codes [N, h*w*C] of a convolution's weight [N, C, h, w], whose rows are channels last, as the kernels want them.

    Each pixel's channels are padded to a multiple of 4 with the code `fill`: [N, h * w * C4]. Their activations are 0. The
    product's groups are equal parts of the padded row.
    """
    outputs, channels, height, width = shape
    if tuple(codes.shape) != (outputs, height * width * channels):
        raise CompressionError(f"codes are {list(codes.shape)}: a weight {list(shape)} has {height * width * channels} in a row")
    padding = -channels % QUAD
    if not padding:
        return codes
    pixels = codes.view(outputs, height * width, channels)
    return functional.pad(pixels, (0, padding), value=fill).view(outputs, -1)
