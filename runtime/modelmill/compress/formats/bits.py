"""Codes of 1 to 8 bits in rows of 32-bit words, as compressed-tensors, GPTQ and AWQ keep them.

`pack` and `unpack` are one little-endian stream of bits for each row: code i is at bits i * b to i * b + b - 1, across words
where it falls so. `unpack_padded` is what compressed-tensors wrote before 0.17: 32 // b codes a word, the bits left over unused.
Where b divides 32 the two are the same.
"""

import torch
from torch.nn import functional

_PERIOD = 8
"""Codes after which a stream is at a byte's beginning again: 8 codes take b bytes."""


def words_of(count: int, *, bits: int) -> int:
    """Words of a row of so many codes, as a stream."""
    return -(-count * bits // 32)


def padded_words_of(count: int, *, bits: int) -> int:
    """Words of a row of so many codes, 32 // bits a word."""
    return -(-count // (32 // bits))


def pack(codes: torch.Tensor, *, bits: int) -> torch.Tensor:
    """uint8 codes [R, K] below 2 ** bits as int32 [R, words_of(K)]."""
    rows, count = codes.shape
    split = functional.pad(codes, (0, -count % _PERIOD)).view(rows, -1, _PERIOD)
    stream = torch.zeros(rows, split.shape[1], bits, dtype=torch.uint8)
    for index in range(_PERIOD):
        first, offset = divmod(index * bits, 8)
        stream[..., first] |= split[..., index] << offset
        if offset + bits > 8:
            stream[..., first + 1] |= split[..., index] >> (8 - offset)
    used = words_of(count, bits=bits) * 4
    flat = stream.flatten(1)[:, :used]
    return functional.pad(flat, (0, used - flat.shape[1])).reshape(-1).view(torch.int32).view(rows, used // 4)


def unpack(words: torch.Tensor, *, bits: int, count: int) -> torch.Tensor:
    """The first `count` codes uint8 [R, count] of each row of int32 words [R, W]; W must be words_of(count) or more."""
    # By way of one dimension, here and above: a [1, G] may call itself contiguous with strides that `view` refuses.
    stream = words.reshape(-1).view(torch.uint8).view(words.shape[0], words.shape[1] * 4)
    split = functional.pad(stream, (0, -stream.shape[1] % bits)).view(words.shape[0], -1, bits)
    codes = torch.empty(*split.shape[:2], _PERIOD, dtype=torch.uint8)
    for index in range(_PERIOD):
        first, offset = divmod(index * bits, 8)
        code = split[..., first] >> offset
        if offset + bits > 8:
            code |= split[..., first + 1] << (8 - offset)
        codes[..., index] = code & ((1 << bits) - 1)
    return codes.flatten(1)[:, :count]


def unpack_padded(words: torch.Tensor, *, bits: int, count: int) -> torch.Tensor:
    """The same of words with 32 // bits codes each; W must be padded_words_of(count) or more."""
    shifts = range(0, 32 // bits * bits, bits)
    mask = (1 << bits) - 1
    codes = torch.stack([((words >> shift) & mask).to(torch.uint8) for shift in shifts], dim=-1)
    return codes.flatten(1)[:, :count]
