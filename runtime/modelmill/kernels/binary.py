"""Products of signs: XNOR-Net (Rastegari, Ordonez, Redmon, Farhadi 2016), weights and activations of 1 bit.

    y[m, n] = (K - 2 * popcount(sign(x[m]) xor sign(w[n]))) * scale[n] * mean |x[m]| + bias[n]

Signs are int64 [rows, ceil(K / 64)]: bit k % 64 of word k // 64 is 1 where the value is below 0 (so 0 and NaN count as
+1), and 0 behind the row. Not here: 1-bit weights with int8 activations, which are codes.
"""

import torch

from modelmill.compress.errors import BadArtifact
from modelmill.kernels import integers, products
from modelmill.kernels.products import native

WORD = 64


def pack_signs(x: torch.Tensor) -> torch.Tensor:
    """Signs int64 [rows, ceil(K / 64)] of x [rows, K]."""
    x = x.detach().to(torch.float32).contiguous()
    if products.ISA == "reference" or not x.is_cpu:
        below = torch.nn.functional.pad(x < 0, (0, -x.shape[1] % WORD)).view(x.shape[0], -1, WORD)
        return (below.to(torch.int64) << torch.arange(WORD, device=x.device)).sum(dim=2)
    signs = torch.empty(x.shape[0], -(-x.shape[1] // WORD), dtype=torch.int64)
    native.pack_signs(x.data_ptr(), signs.data_ptr(), x.shape[0], x.shape[1], products.LEVELS[products.ISA])
    return signs


def unpack_signs(signs: torch.Tensor, *, inputs: int) -> torch.Tensor:
    """-1 and +1, float32 [rows, inputs]."""
    bits = (signs[..., None] >> torch.arange(WORD, device=signs.device)) & 1
    return 1 - 2 * bits.flatten(1)[:, :inputs].to(torch.float32)


def binary_linear(x: torch.Tensor, signs: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x [..., K] times a weight of signs [N, ceil(K / 64)] with scale [N], plus bias [N]: [..., N] in x's dtype.

    Raises ValueError for tensors that do not fit each other.
    """
    rows = x.reshape(-1, x.shape[-1]).to(torch.float32).contiguous()
    traced = torch.compiler.is_compiling()
    y = (torch.ops.modelmill.binary_linear if traced else _binary_linear)(rows, signs, scale, bias)
    return y.view(*x.shape[:-1], y.shape[1]).to(x.dtype)


def check(signs: torch.Tensor, scale: torch.Tensor, *, outputs: int, inputs: int, name: str) -> None:
    """Refuses with BadArtifact what cannot be the signs and scales of a weight [outputs, inputs]."""
    wanted = (outputs, -(-inputs // WORD))
    if signs.dtype != torch.int64 or tuple(signs.shape) != wanted:
        raise BadArtifact(
            f"tensor {name!r}: signs must be torch.int64 {list(wanted)}, the file has {signs.dtype} {list(signs.shape)}"
        )
    integers.check_scale(scale, is_float=False, outputs=outputs, name=name)
    used = inputs % WORD
    if used and bool((signs[:, -1] >> used).any()):
        raise BadArtifact(f"tensor {name!r}: bits behind the last input of a row must be 0")


def _binary_linear(x: torch.Tensor, signs: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    rows, inputs = x.shape
    outputs = signs.shape[0]
    if signs.dtype != torch.int64 or signs.shape != (outputs, -(-inputs // WORD)) or not signs.is_contiguous():
        raise ValueError(f"signs: {signs.dtype} {list(signs.shape)} must be int64 [N, {-(-inputs // WORD)}]")
    if scale.dtype != torch.float32 or scale.shape != (outputs,) or not scale.is_contiguous():
        raise ValueError(f"scale: {scale.dtype} {list(scale.shape)} must be float32 [{outputs}]")
    products.fits_rows(x, bias, outputs)
    if products.ISA == "reference" or not x.is_cpu:
        return _reference(x, signs, scale, bias)
    y = x.new_empty(rows, outputs)
    native.binary_linear(
        signs.data_ptr(),
        scale.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        y.data_ptr(),
        x.data_ptr(),
        rows,
        outputs,
        inputs,
        torch.get_num_threads(),
        products.LEVELS[products.ISA],
    )
    return y


def _reference(x: torch.Tensor, signs: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    rows, inputs = x.shape
    y = x.new_empty(rows, signs.shape[0])
    step = max(1, min(signs.shape[0] // 4, products.TILE_ELEMENTS // inputs))
    plus = torch.where(x < 0, -1.0, 1.0)
    for start in range(0, signs.shape[0], step):
        # Whole numbers below 2^24: exact as floats.
        torch.mm(plus, unpack_signs(signs[start : start + step], inputs=inputs).t(), out=y[:, start : start + step])
    y = y * scale * x.abs().mean(dim=1, keepdim=True)
    return y if bias is None else y.add_(bias)


def _register() -> torch.library.Library:
    library = torch.library.Library("modelmill", "FRAGMENT")
    library.define("binary_linear(Tensor x, Tensor signs, Tensor scale, Tensor? bias) -> Tensor")
    library.impl("binary_linear", _binary_linear, "CompositeExplicitAutograd")
    torch.library.register_fake("modelmill::binary_linear", _fake, lib=library)
    return library


def _fake(x: torch.Tensor, signs: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return x.new_empty(x.shape[0], signs.shape[0])


_LIBRARY = _register()
