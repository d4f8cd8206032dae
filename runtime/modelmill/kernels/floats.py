"""GELU and attention in float32, for inference on a CPU: torch's own functions where the native ones do not apply.

    gelu       x * Phi(x), or its approximation by tanh (Hendrycks and Gimpel 2016)
    attention  softmax(q k^T * scale + mask) v (Vaswani et al. 2017), whole rows of scores at a time

For the short rows of encoders, where torch's flash attention spends its time on its bookkeeping; the keys of a head have to fit
into the cache (`MOST_KEYS`). Answers are torch's up to rounding.
"""

import torch
from torch.nn import functional

from modelmill.kernels import native

LANES = 8
MOST_KEYS, MOST_WIDTH = 256, 256
"""With 64 keys torch's attention took 1.5 times as long, with 128 1.2 times, with 256 as long, with 1,024 0.8 (Zen 3, one
thread)."""
_native = native.chosen.module if native.chosen.isa in ("avx2", "avx512vnni") else None


def available() -> bool:
    """Whether the native functions run here."""
    return _native is not None


def gelu(input: torch.Tensor, approximate: str = "none", *, in_place: bool = False) -> torch.Tensor:
    """As torch.nn.functional.gelu. `in_place`: the result may be written over the input, which nobody else wants."""
    if not _fits(input) or not input.is_contiguous() or approximate not in ("none", "tanh") or _native is None:
        return functional.gelu(input, approximate=approximate)
    y = input if in_place else torch.empty_like(input)
    pointers = input.data_ptr(), y.data_ptr()
    _native.gelu(*pointers, input.numel(), approximate == "tanh", torch.get_num_threads())
    return y


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    *,
    scale: float | None = None,
) -> torch.Tensor:
    """As torch.nn.functional.scaled_dot_product_attention: query [N, H, T, D], key and value [N, H, S, D], a mask that broadcasts
    to [N, H, T, S], of bool or added; [N, H, T, D]. A row that may look at nothing is 0."""
    mask = None if attn_mask is None else _broadcast(attn_mask, query, key)
    if not _known(query, key, value) or (attn_mask is not None and mask is None) or _native is None:
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask, scale=scale)
    batch, heads, queries, width = query.shape
    # Whoever flattens heads and widths gets it without a copy.
    out = query.new_empty(batch, queries, heads, width).transpose(1, 2)
    address = 0 if mask is None else mask.data_ptr()
    told = mask is not None and mask.dtype == torch.bool
    strides = [tensor.stride()[:3] if tensor is not None else (0, 0, 0) for tensor in (query, key, value, out, mask)]
    _native.attention(
        *(tensor.data_ptr() for tensor in (query, key, value, out)),
        address if told else 0,
        0 if told else address,
        *(batch, heads, queries, key.shape[2], width),
        *(stride for three in strides for stride in three),
        width**-0.5 if scale is None else scale,
        torch.get_num_threads(),
    )
    return out


def _fits(*tensors: torch.Tensor) -> bool:
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return False
    return all(tensor.is_cpu and tensor.dtype == torch.float32 for tensor in tensors) and not torch.is_autocast_enabled("cpu")


def _known(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
    tensors = (query, key, value)
    if any(tensor.dim() != 4 or tensor.numel() == 0 or tensor.stride(3) != 1 for tensor in tensors) or not _fits(*tensors):
        return False
    (batch, heads, _, width), keys = query.shape, key.shape[2]
    small = keys <= MOST_KEYS and width <= MOST_WIDTH and width % LANES == 0
    return small and key.shape == value.shape == (batch, heads, keys, width)


def _broadcast(mask: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor | None:
    """The mask as [N, H, T, S] without a copy; None where it is none that the native function reads."""
    if query.dim() != 4 or key.dim() != 4 or not 2 <= mask.dim() <= 4:
        return None
    if mask.dtype not in (torch.bool, torch.float32) or not mask.is_cpu or mask.requires_grad:
        return None
    try:
        whole = mask.expand(*query.shape[:3], key.shape[2])
    except RuntimeError:
        return None
    return whole if whole.stride(3) == 1 else None
