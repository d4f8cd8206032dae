"""`codes`: small whole numbers with levels, scales and zeros (docs/design/0008-compression.md).

    descriptor  {"codec": "codes", "grid": "Uniform", "bits": 4, "shape": [N, ...], ...facts of the grid}
    8 bits      <weight> int8 or uint8 [N, ...]     <weight>_scale float32 [N, G]           <weight>_zero int8 [N, G]
    below       <weight> uint8 [N/16, K/(32/bits), 64]    <weight>_scale float32 [N/16, G, 16]    <weight>_zero int8 [N/16, G, 16]
                <weight>_levels int8 [2 ** bits]

8 bits without levels and zeros is compressed-tensors' `int-quantized`. Below, a convolution's channels are padded to
a multiple of 4 for each of its taps, so that a kernel finds four channels side by side.
"""

from typing import Any, Self

import torch
from torch.nn import functional

from modelmill.compress.codecs.shape import shape_of
from modelmill.compress.codes import WIDTHS, Codes, inputs_of, meaning, rows_of
from modelmill.compress.errors import BadArtifact, CompressionError
from modelmill.compress.weight import CompressedWeight, Take
from modelmill.kernels import gpu, tiles

NAME = "codes"


class CodedWeight(CompressedWeight):
    codec = NAME
    codes: torch.Tensor
    scale: torch.Tensor
    levels: torch.Tensor | None
    zero: torch.Tensor | None

    def __init__(
        self,
        *,
        grid: str,
        bits: int,
        shape: tuple[int, ...],
        codes: torch.Tensor,
        scale: torch.Tensor,
        levels: torch.Tensor | None,
        zero: torch.Tensor | None,
        facts: dict[str, Any],
    ) -> None:
        """Tensors as they are stored."""
        super().__init__()
        self.grid, self.bits, self.shape, self.facts = grid, bits, shape, facts
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.register_buffer("levels", levels)
        self.register_buffer("zero", zero)

    @classmethod
    def of(cls, codes: Codes) -> Self:
        """To be stored. Raises CompressionError where groups and channels do not go together."""
        stored, scale, zero = codes.codes, codes.scale, codes.zero
        if codes.bits < 8:
            if len(codes.shape) > 2 and codes.shape[1] % tiles.LANES and scale.shape[1] > 1:
                raise CompressionError(
                    f"groups below 8 bits need a number of input channels that {tiles.LANES} divides, this convolution has "
                    f"{codes.shape[1]}; use granularity Channel"
                )
            stored = tiles.pack(_padded(stored, codes.shape), bits=codes.bits)
            scale, zero = tiles.tile_rows(scale), None if zero is None else tiles.tile_rows(zero)
        elif len(codes.shape) > 2:
            stored = stored.view(codes.shape[0], *codes.shape[2:], codes.shape[1]).movedim(-1, 1).contiguous()
        return cls(
            grid=codes.grid, bits=codes.bits, shape=codes.shape, codes=stored, scale=scale, levels=codes.levels, zero=zero,
            facts=codes.facts,
        )  # fmt: skip

    @classmethod
    def read(cls, name: str, descriptor: dict[str, Any], take: Take) -> Self:
        facts = dict(descriptor)
        shape = shape_of(name, facts)
        grid, bits = facts.pop("grid", None), facts.pop("bits", None)
        if not isinstance(grid, str) or type(bits) is not int or bits not in WIDTHS:
            raise BadArtifact(f"tensor {name!r}: grid {grid!r} must be a name and bits {bits!r} one of {WIDTHS}")
        del facts["shape"]
        optional = {part: take(part) if facts.pop(part, False) else None for part in ("levels", "zero")}
        made = cls(grid=grid, bits=bits, shape=shape, codes=take(""), scale=take("scale"), facts=facts, **optional)
        made._check(name)
        return made

    def _check(self, name: str) -> None:
        outputs, inputs = self.shape[0], inputs_of(self.shape)
        blocks = -(-outputs // tiles.ROWS)
        groups = self.scale.shape[1] if self.scale.dim() > 1 else 0
        if groups < 1 or inputs % groups:
            raise BadArtifact(f"tensor {name + '_scale'!r}: {groups} groups do not divide {inputs} inputs")
        if self.bits == 8:
            _expect(name, self.codes, torch.uint8 if self.levels is not None else torch.int8, self.shape)
            grouped: tuple[int, ...] = (outputs, groups)
        else:
            padded = _padded_inputs(self.shape)
            _expect(name, self.codes, torch.uint8, (blocks, -(-padded // tiles.inputs_of(self.bits)), tiles.ROWS * tiles.LANES))
            grouped = (blocks, groups, tiles.ROWS)
        _expect(f"{name}_scale", self.scale, torch.float32, grouped)
        if self.zero is not None:
            _expect(f"{name}_zero", self.zero, torch.int8, grouped)
        if self.levels is not None:
            _expect(f"{name}_levels", self.levels, torch.int8, (1 << self.bits,))
        elif self.bits < 8:
            raise BadArtifact(f"tensor {name!r}: codes of {self.bits} bits need levels")
        scale = self._rows_of_scale(0, outputs)
        wrong = ~(scale.isfinite() & (scale > 0))
        if bool(wrong.any()):
            row, group = wrong.nonzero()[0].tolist()
            raise BadArtifact(
                f"tensor {name + '_scale'!r}: scale {float(scale[row, group]):g} of channel {row} must be finite and above 0"
            )

    def descriptor(self) -> dict[str, Any]:
        there = {part: True for part in ("levels", "zero") if getattr(self, part) is not None}
        return {"grid": self.grid, "bits": self.bits, "shape": list(self.shape), **there, **self.facts}

    def tensors(self) -> dict[str, torch.Tensor]:
        parts = {"": self.codes, "scale": self.scale, "levels": self.levels, "zero": self.zero}
        return {name: part for name, part in parts.items() if part is not None}

    def rows(self, start: int, stop: int) -> torch.Tensor:
        scale = self._rows_of_scale(start, stop)
        if self.bits == 8:
            codes, zero = rows_of(self.codes[start:stop]), None if self.zero is None else self.zero[start:stop]
        else:
            codes, zero = self._unpacked(start, stop), self._rows_of_zero(start, stop)
        return meaning(codes, scale=scale, levels=self.levels, zero=zero)

    def loose(self) -> Codes:
        """As the grid gave them: `of` takes them back."""
        outputs = self.shape[0]
        if self.bits == 8:
            codes, zero = rows_of(self.codes), self.zero
        else:
            codes, zero = self._unpacked(0, outputs), self._rows_of_zero(0, outputs)
        return Codes(
            grid=self.grid, codes=codes.contiguous(), bits=self.bits, levels=self.levels, scale=self._rows_of_scale(0, outputs),
            zero=zero, shape=self.shape, facts=self.facts,
        )  # fmt: skip

    def _rows_of_scale(self, start: int, stop: int) -> torch.Tensor:
        return self.scale[start:stop] if self.bits == 8 else tiles.untile_rows(self.scale, start=start, stop=stop)

    def _rows_of_zero(self, start: int, stop: int) -> torch.Tensor | None:
        return None if self.zero is None else tiles.untile_rows(self.zero, start=start, stop=stop)

    def _unpacked(self, start: int, stop: int) -> torch.Tensor:
        inputs = _padded_inputs(self.shape)
        return _cut(tiles.unpack(self.codes, bits=self.bits, start=start, stop=stop, inputs=inputs), self.shape)

    def linear(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        whole = self.bits == 8 and self.levels is None and self.zero is None and self.scale.shape[1] == 1
        if whole and gpu.fits(x, self.codes):
            return gpu.integer_linear(x, self.codes, self.scale.flatten(), bias)
        return super().linear(x, bias)

    def rescale(self, factor: torch.Tensor) -> None:
        factor = factor.to(torch.float32)[:, None]
        self.scale = self.scale * (factor if self.bits == 8 else tiles.tile_rows(factor))

    def extra_repr(self) -> str:
        return f"{list(self.shape)}, {self.grid}, {self.bits} bits"


def _expect(name: str, tensor: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if tensor.dtype != dtype or tensor.shape != shape:
        raise BadArtifact(f"tensor {name!r}: expected {dtype} {list(shape)}, the file has {tensor.dtype} {list(tensor.shape)}")


def _padded_inputs(shape: tuple[int, ...]) -> int:
    """K with the channels of each tap padded."""
    if len(shape) == 2:
        return shape[1]
    return inputs_of(shape) // shape[1] * (shape[1] + -shape[1] % tiles.LANES)


def _padded(codes: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    if len(shape) == 2 or shape[1] % tiles.LANES == 0:
        return codes
    return functional.pad(codes.view(codes.shape[0], -1, shape[1]), (0, -shape[1] % tiles.LANES)).flatten(1)


def _cut(codes: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    if len(shape) == 2 or shape[1] % tiles.LANES == 0:
        return codes
    return codes.view(codes.shape[0], -1, shape[1] + -shape[1] % tiles.LANES)[..., : shape[1]].flatten(1)
