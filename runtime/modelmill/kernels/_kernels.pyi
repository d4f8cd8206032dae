# The interface of runtime/native/kernels. Pointers are addresses, 0 for none; `set_` is a place in `names()`.

def names() -> list[str]:
    """The instruction sets that this processor has, worst first."""

def linear(set_: int, *arguments: float) -> None:
    """Codes, scale, levels, zero, bias; bits, outputs, inputs, groups; x, rows; fixed scale or 0, threads; out, relu."""

def conv(set_: int, *arguments: float) -> None:
    """The weight as above; x, batch, channels, height, width; kernel, stride, padding and dilation, two each; channels last;
    fixed scale or 0, threads; out, residual, relu."""

def run(set_: int, *arguments: int) -> None:
    """A program: its numbers (see kernels/program.py), how many values, operations, inputs and outputs; batch, block, bytes of a
    sample, multiplications of a sample, threads; inputs and outputs."""

def runs(*arguments: int) -> bool:
    """The weight as above; steps of a tile; the largest activation; lengths of runs uint8 and order of steps uint16,
    [tiles, steps] each: see runtime/native/kernels/packing.hpp. Whether there are runs."""

def packed_linear(set_: int, *arguments: float) -> None:
    """As `linear`, with lengths, order and shift (see runtime/native/kernels/packing.hpp) after the weight."""

def gelu(*arguments: int) -> None:
    """x, y float32 of this many values; whether by tanh; threads. Needs AVX2 and FMA."""

def attention(*arguments: float) -> None:
    """q, k, v, out, mask of bytes or 0, mask of floats or 0; batch, heads, queries, keys, width; strides of sample, head and row
    of q, k, v, out and mask; scale, threads. Needs AVX2 and FMA."""
