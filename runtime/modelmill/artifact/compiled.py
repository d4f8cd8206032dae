"""What a manifest says about machine code that a variant's module was compiled to: where it may run, and what it brings."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One thread of the machine that compiled; seconds of its processor, undisturbed as far as that goes."""

    rows: int
    length: int
    """Of every free dimension besides the rows."""
    millis: float
    """Of the compiled module."""
    served_millis: float
    """Of what the server would run without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    file: str
    """A shared library without weights: it computes with those of the variant."""
    torch: str
    """Release that made it; no other can load it."""
    instructions: tuple[str, ...]
    """That a processor must have, in the words of Linux without `_`: avx2, fma."""
    tensors: str
    """Digest of the names, datatypes and shapes of the module's weights."""
    dimensions: tuple[tuple[str, ...], ...]
    """Of each input: a number, or a name for a free one; dimensions of one name are equal in every call."""
    limits: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Smallest size, and the largest if there is one, by name of a free dimension."""
    measured: tuple[Measured, ...] = ()
    """Also what the server warms up with."""
