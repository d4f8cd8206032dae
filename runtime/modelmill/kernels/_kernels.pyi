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

def runs(*arguments: int) -> None:
    """The weight as above; steps of a tile; lengths of runs uint8 and order of steps uint16, [tiles, steps] each: see
    runtime/native/kernels/run.hpp."""
