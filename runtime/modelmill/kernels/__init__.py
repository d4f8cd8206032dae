"""Products with coded weights, computed as they are stored: operators, their reference, and the native module they run on.

`docs/design/0008-compression.md` says what codes are and why the product is the same on every instruction set.
"""

from modelmill.kernels.conv import coded_conv2d
from modelmill.kernels.linear import coded_linear
from modelmill.kernels.native import status
from modelmill.kernels.tiles import conv_rows, pack, prepare8, tile_scales, unpack, untile_scales

__all__ = [
    "coded_conv2d",
    "coded_linear",
    "conv_rows",
    "pack",
    "prepare8",
    "status",
    "tile_scales",
    "unpack",
    "untile_scales",
]
