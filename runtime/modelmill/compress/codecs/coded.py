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
from modelmill.compress.mapping import drop_pages
from modelmill.compress.weight import CompressedWeight, Geometry, Take
from modelmill.kernels import coded_conv2d, coded_linear, conv, native, program, tiles
from modelmill.kernels.conv import convolve
from modelmill.kernels.gpu.whole import Whole
from modelmill.kernels.linear import FEW, multiply
from modelmill.kernels.packing import Packed, packed
from modelmill.kernels.weight import Coded, Ready, is_plain

NAME = "codes"


class CodedWeight(CompressedWeight):
    codec = NAME
    instructions = native.chosen.isa
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
        self.tiled = bits < 8
        """Whether codes, scales and zeros are in the order of tiles."""
        self._packed: tuple[Packed | None] | None = None
        """What `_runs` has found, once it has looked."""
        self._kept: Ready | None = None
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.register_buffer("levels", levels)
        self.register_buffer("zero", zero)

    @classmethod
    def of(cls, codes: Codes) -> Self:
        """To be stored. Raises CompressionError where groups and channels do not go together."""
        stored, scale, zero = codes.codes, codes.scale, codes.zero
        if codes.bits < 8:
            if not _groups_fit(codes.shape, scale.shape[1]):
                raise CompressionError(
                    f"groups below 8 bits need a number of input channels that {tiles.QUAD} divides, this convolution has "
                    f"{codes.shape[1]}; use granularity Channel"
                )
            stored = tiles.pack(_padded(stored, codes.shape), codes.bits)
            scale, zero = tiles.tile_scales(scale), None if zero is None else tiles.tile_scales(zero)
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
        tiled = tiles.tiled_shape(outputs, _padded_inputs(self.shape), self.bits)
        groups = self.scale.shape[1] if self.scale.dim() > 1 else 0
        if groups < 1 or inputs % groups:
            raise BadArtifact(f"tensor {name + '_scale'!r}: {groups} groups do not divide {inputs} inputs")
        if self.bits == 8:
            _expect(name, self.codes, torch.uint8 if self.levels is not None else torch.int8, self.shape)
            grouped: tuple[int, ...] = (outputs, groups)
        else:
            _expect(name, self.codes, torch.uint8, tiled)
            grouped = (tiled[0], groups, tiles.ROWS)
            if not _groups_fit(self.shape, groups):
                raise BadArtifact(f"tensor {name + '_scale'!r}: {groups} groups and {self.shape[1]} channels do not go together")
        _expect(f"{name}_scale", self.scale, torch.float32, grouped)
        if self.zero is not None:
            _expect(f"{name}_zero", self.zero, torch.int8, grouped)
        if self.levels is not None:
            _expect(f"{name}_levels", self.levels, torch.int8, (1 << self.bits,))
        elif self.bits < 8:
            raise BadArtifact(f"tensor {name!r}: codes of {self.bits} bits need levels")
        most = self.facts.get("q")
        if type(most) is int and self.codes.dtype == torch.uint8 and int(self._codes_by_row(0, outputs).max()) >= most:
            raise BadArtifact(f"tensor {name!r}: a code is not below its modulus {most}")
        scale = self._by_row(self.scale, 0, outputs)
        assert scale is not None
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
        scale, zero = self._by_row(self.scale, start, stop), self._by_row(self.zero, start, stop)
        assert scale is not None
        return meaning(self._codes_by_row(start, stop), scale=scale, levels=self.levels, zero=zero)

    def loose(self) -> Codes:
        """As the grid gave them: `of` takes them back."""
        outputs = self.shape[0]
        scale, zero = self._by_row(self.scale, 0, outputs), self._by_row(self.zero, 0, outputs)
        assert scale is not None
        codes = self._codes_by_row(0, outputs)
        return Codes(
            grid=self.grid, codes=codes.contiguous(), bits=self.bits, levels=self.levels, scale=scale,
            zero=zero, shape=self.shape, facts=self.facts,
        )  # fmt: skip

    def whole(self) -> Whole:
        codes = self.loose()
        if codes.levels is None:
            numbers, levels = codes.codes, tuple(range(-128, 128))
        else:
            numbers, levels = codes.levels[codes.codes.int()], tuple(codes.levels.tolist())
        scale, zero = codes.scale.contiguous(), codes.zero
        return Whole(numbers=numbers, scale=scale, levels=levels, zero=zero, activation_scale=self.activation_scale)

    def _codes_by_row(self, start: int, stop: int) -> torch.Tensor:
        if not self.tiled:
            return rows_of(self.codes[start:stop])
        bits, padded = self.bits, _padded_inputs(self.shape)
        unpacked = tiles.unpack(self.codes, bits=bits, rows=self.shape[0], inputs=padded, start=start, stop=stop)
        return _cut(unpacked.view(self.codes.dtype), self.shape)

    def _by_row(self, values: torch.Tensor | None, start: int, stop: int) -> torch.Tensor | None:
        """Scales or zeros [stop - start, G]."""
        if values is None or not self.tiled:
            return None if values is None else values[start:stop]
        first = start // tiles.ROWS
        part = tiles.untile_scales(values[first : -(-stop // tiles.ROWS)], stop - first * tiles.ROWS)
        return part[start - first * tiles.ROWS :]

    def prepare(self) -> None:
        """8 bits come in rows, which other libraries read; the kernels of this machine's processor want tiles."""
        if self.tiled or not _groups_fit(self.shape, self.scale.shape[1]):
            return
        stored, self.codes = self.codes, tiles.prepare8(_padded(rows_of(self.codes), self.shape))
        drop_pages(stored)
        self.scale = tiles.tile_scales(self.scale)
        self.zero = None if self.zero is None else tiles.tile_scales(self.zero)
        self.tiled = True

    def linear(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if self.tiled and not x.is_cuda:
            if is_plain(x):
                runs = self._runs() if x.shape[0] > FEW else None
                return multiply(x, self._ready(bias), self.activation_scale, packed=runs)
            outputs, inputs = self.shape
            scale = self.activation_scale
            return coded_linear(x, *self._parts(), bias, bits=self.bits, inputs=inputs, outputs=outputs, activation_scale=scale)
        return super().linear(x, bias)

    def _runs(self) -> Packed | None:
        """Found when many rows first come, in the warm-up: a large file would be slow to open."""
        if self._packed is None:
            outputs, inputs = self.shape
            self._packed = (packed(Coded(*self._parts(), None, self.bits, outputs, inputs)),)
        return self._packed[0]

    def _ready(self, bias: torch.Tensor | None) -> Ready:
        """Kept until one of its tensors is exchanged, by `to()` for example."""
        kept, own = self._kept, self._buffers
        if kept is None or not kept.holds(own["codes"], own["scale"], bias):
            coded = Coded(*self._parts(), bias, self.bits, self.shape[0], _padded_inputs(self.shape))
            self._kept = kept = Ready(coded)
        return kept

    def conv2d(self, x: torch.Tensor, bias: torch.Tensor | None, geometry: Geometry) -> torch.Tensor:
        if not self._has_kernel(x, geometry):
            return super().conv2d(x, bias, geometry)
        return self._conv2d(x, bias, geometry, residual=None, relu=False)

    def rectified_conv2d(
        self, x: torch.Tensor, bias: torch.Tensor | None, geometry: Geometry, residual: torch.Tensor | None
    ) -> torch.Tensor:
        if not self._has_kernel(x, geometry):
            return super().rectified_conv2d(x, bias, geometry, residual)
        return self._conv2d(x, bias, geometry, residual=residual, relu=True)

    def operand(self, bias: torch.Tensor | None) -> Coded | None:
        """What programs of convolutions take (`kernels.program`); None where they cannot."""
        if not self.tiled or len(self.shape) != 4:
            return None
        coded = Coded(*self._parts(), bias, self.bits, self.shape[0], _padded_inputs(self.shape))
        return coded if program.takes(coded) else None

    def _has_kernel(self, x: torch.Tensor, geometry: Geometry) -> bool:
        return self.tiled and not x.is_cuda and x.dim() == 4 and not isinstance(geometry.padding, str)

    def _conv2d(
        self,
        x: torch.Tensor,
        bias: torch.Tensor | None,
        geometry: Geometry,
        *,
        residual: torch.Tensor | None,
        relu: bool,
    ) -> torch.Tensor:
        assert not isinstance(geometry.padding, str)
        sizes = conv.Geometry(self.shape[2:], geometry.stride, geometry.padding, geometry.dilation)
        scale = self.activation_scale
        if is_plain(x):
            return convolve(x, self._ready(bias), sizes, scale, residual, relu)
        return coded_conv2d(
            x, *self._parts(), bias, bits=self.bits, outputs=self.shape[0], **sizes._asdict(), activation_scale=scale,
            residual=residual, relu=relu,
        )  # fmt: skip

    def _parts(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        return self.codes, self.scale, self.levels, self.zero

    def rescale(self, factor: torch.Tensor) -> None:
        factor = factor.to(torch.float32)[:, None]
        self.scale = self.scale * (tiles.tile_scales(factor) if self.tiled else factor)

    def extra_repr(self) -> str:
        return f"{list(self.shape)}, {self.grid}, {self.bits} bits"


def _expect(name: str, tensor: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if tensor.dtype != dtype or tensor.shape != shape:
        raise BadArtifact(f"tensor {name!r}: expected {dtype} {list(shape)}, the file has {tensor.dtype} {list(tensor.shape)}")


def _groups_fit(shape: tuple[int, ...], groups: int) -> bool:
    """Channels that are padded would move the borders of groups."""
    return len(shape) == 2 or groups == 1 or shape[1] % tiles.QUAD == 0


def _padded_inputs(shape: tuple[int, ...]) -> int:
    """K with the channels of each tap padded."""
    return shape[1] if len(shape) == 2 else inputs_of(shape) // shape[1] * (shape[1] + -shape[1] % tiles.QUAD)


def _padded(codes: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    if len(shape) == 2 or shape[1] % tiles.QUAD == 0:
        return codes
    return functional.pad(codes.reshape(codes.shape[0], -1, shape[1]), (0, -shape[1] % tiles.QUAD)).flatten(1)


def _cut(codes: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    if len(shape) == 2 or shape[1] % tiles.QUAD == 0:
        return codes
    return codes.view(codes.shape[0], -1, shape[1] + -shape[1] % tiles.QUAD)[..., : shape[1]].flatten(1)
