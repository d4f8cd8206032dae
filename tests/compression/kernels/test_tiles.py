import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelmill.compress.errors import CompressionError
from modelmill.kernels import conv_rows, pack, prepare8, tile_scales, unpack, untile_scales

BITS = st.sampled_from((1, 2, 4, 8))


@settings(max_examples=40)
@given(BITS, st.integers(1, 40), st.integers(1, 70), st.data())
def test_unpacking_gives_back_any_rows_of_what_was_packed(bits: int, rows: int, inputs: int, data: st.DataObject) -> None:
    codes = torch.randint(0, 1 << bits, (rows, inputs), dtype=torch.uint8, generator=torch.Generator().manual_seed(rows))
    start = data.draw(st.integers(0, rows - 1))
    stop = data.draw(st.integers(start + 1, rows))
    part = unpack(pack(codes, bits), bits=bits, rows=rows, inputs=inputs, start=start, stop=stop)
    assert torch.equal(part, codes[start:stop])


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_each_code_lies_where_the_format_says(bits: int) -> None:
    phases = 8 // bits
    codes = torch.randint(0, 1 << bits, (35, 50), dtype=torch.uint8)
    tiles = pack(codes, bits)
    assert tiles.shape == (3, -(-50 // (4 * phases)), 64)
    for row, k in ((0, 0), (17, 33), (34, 49), (15, 4 * phases)):
        block, phase, j = k // (4 * phases), k % (4 * phases) // 4, k % 4
        byte = int(tiles[row // 16, block, 4 * (row % 16) + j])
        assert byte >> (phase * bits) & ((1 << bits) - 1) == int(codes[row, k])


def test_scales_are_found_again() -> None:
    scales = torch.rand(21, 5)
    tiled = tile_scales(scales)
    assert tiled.shape == (2, 5, 16)
    assert torch.equal(untile_scales(tiled, 21), scales)
    assert not tiled[1, :, 5:].any()


def test_int8_codes_keep_their_type_and_place() -> None:
    codes = torch.randint(-128, 128, (16, 4), dtype=torch.int8)
    assert torch.equal(prepare8(codes).view(16, 4), codes)


@given(st.sampled_from((16, 32, 33)), st.sampled_from((4, 7, 40)), st.integers(0, 5))
def test_int8_codes_become_tiles_wherever_they_lie(rows: int, inputs: int, offset: int) -> None:
    memory = torch.randint(-128, 128, (offset + rows * inputs,), dtype=torch.int8, generator=torch.Generator().manual_seed(rows))
    codes = memory[offset:].view(rows, inputs)
    assert torch.equal(prepare8(codes), pack(codes.clone().view(torch.uint8), 8).view(torch.int8))


def test_channels_of_a_convolution_are_padded_to_four_for_each_tap() -> None:
    codes = torch.arange(2 * 2 * 3, dtype=torch.uint8).view(2, 6)
    rows = conv_rows(codes, (2, 3, 1, 2), fill=9)
    assert rows.tolist() == [[0, 1, 2, 9, 3, 4, 5, 9], [6, 7, 8, 9, 9, 10, 11, 9]]
    whole = torch.zeros(2, 8, dtype=torch.uint8)
    assert conv_rows(whole, (2, 4, 1, 2)) is whole


@pytest.mark.parametrize(
    ("codes", "bits", "said"),
    [
        (torch.full((1, 1), 4, dtype=torch.uint8), 2, "a code is 4"),
        (torch.zeros(1, 1, dtype=torch.int8), 4, "pack takes uint8"),
        (torch.zeros(1, 1, dtype=torch.uint8), 3, "bits is 3"),
    ],
)
def test_what_is_no_code_is_refused(codes: torch.Tensor, bits: int, said: str) -> None:
    with pytest.raises(CompressionError, match=said):
        pack(codes, bits)


def test_tiles_of_another_shape_are_refused() -> None:
    with pytest.raises(CompressionError, match=r"take \[1, 3, 64\]"):
        unpack(torch.zeros(1, 2, 64, dtype=torch.uint8), bits=4, rows=16, inputs=17)
