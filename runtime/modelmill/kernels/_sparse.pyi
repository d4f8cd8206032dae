# The interface of runtime/native/sparse. Tensors are addresses (0: none), lengths are elements; ValueError refuses.
# `level`: the best instruction set to use, by its place in `sets`, where it is there; results do not depend on it.

def sets() -> list[str]:
    """What this processor has of "portable", "avx2", "avx512vnni"."""

def block_linear(
    values: int,
    is_float: bool,
    index: int,
    wide: bool,
    starts: int,
    quads: int,
    height: int,
    outputs: int,
    inputs: int,
    scale: int,
    bias: int,
    out: int,
    x: int,
    rows: int,
    threads: int,
    level: int,
    activation_scale: float,
    /,
) -> None: ...
def block_conv2d(
    values: int,
    is_float: bool,
    index: int,
    wide: bool,
    starts: int,
    quads: int,
    height: int,
    outputs: int,
    inputs: int,
    scale: int,
    bias: int,
    out: int,
    x: int,
    samples: int,
    channels: int,
    image_height: int,
    image_width: int,
    kernel_y: int,
    kernel_x: int,
    stride_y: int,
    stride_x: int,
    dilation_y: int,
    dilation_x: int,
    top: int,
    left: int,
    rows: int,
    columns: int,
    threads: int,
    level: int,
    activation_scale: float,
    /,
) -> None:
    """x and out channels last; `rows` and `columns` are those of the image with its border."""

def block_decode(
    values: int,
    is_float: bool,
    index: int,
    wide: bool,
    starts: int,
    quads: int,
    height: int,
    outputs: int,
    inputs: int,
    scale: int,
    bias: int,
    out: int,
    first_block: int,
    end_block: int,
    /,
) -> None: ...
def sparse_linear(
    values: int,
    is_float: bool,
    bits: int,
    starts: int,
    kept: int,
    outputs: int,
    inputs: int,
    scale: int,
    bias: int,
    out: int,
    x: int,
    rows: int,
    threads: int,
    level: int,
    activation_scale: float,
    /,
) -> None: ...
def sparse_decode(
    values: int,
    is_float: bool,
    bits: int,
    starts: int,
    kept: int,
    outputs: int,
    inputs: int,
    scale: int,
    bias: int,
    out: int,
    first_row: int,
    end_row: int,
    level: int,
    /,
) -> None: ...
def dense_linear(
    weight: int, scale: int, bias: int, out: int, x: int, rows: int, outputs: int, inputs: int, level: int, /
) -> None:
    """int8 [outputs, inputs], inputs a multiple of 32: what benchmarks compare with."""

def binary_linear(
    signs: int, scale: int, bias: int, out: int, x: int, rows: int, outputs: int, inputs: int, threads: int, level: int, /
) -> None: ...
def pack_signs(x: int, out: int, rows: int, inputs: int, level: int, /) -> None: ...
