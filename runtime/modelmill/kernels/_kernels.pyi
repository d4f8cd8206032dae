# The interface of runtime/native/kernels. Pointers are addresses, 0 for none; `set_` is a place in `names()`.

def names() -> list[str]:
    """The instruction sets that this processor has, worst first."""

def linear(set_: int, *arguments: float) -> None:
    """Codes, scale, levels, zero, bias; bits, outputs, inputs, groups; x, rows; fixed scale or 0, threads; out, relu."""

def conv(set_: int, *arguments: float) -> None:
    """The weight as above; x, batch, channels, height, width; kernel, stride, padding and dilation, two each; channels last;
    fixed scale or 0, threads; out, residual, relu."""
