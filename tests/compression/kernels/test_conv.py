from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from modelmill.compress.errors import CompressionError
from modelmill.kernels import coded_conv2d, conv_rows, pack, tile_scales
from tests.compression.kernels.made import module, running, sets, weight

# Channels, height, width; outputs; kernel, stride, padding, dilation; groups.
CASES = (
    (3, 8, 8, 16, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    (16, 9, 7, 20, (3, 3), (2, 2), (1, 1), (1, 1), 1),
    (8, 8, 8, 16, (3, 3), (1, 1), (2, 2), (2, 2), 3),
    (64, 5, 5, 7, (1, 1), (1, 1), (0, 0), (1, 1), 2),
    (64, 6, 6, 16, (3, 3), (1, 1), (1, 1), (1, 1), 9),
    (6, 5, 9, 3, (2, 5), (1, 2), (0, 3), (3, 1), 1),
    (70, 4, 3, 5, (1, 3), (1, 1), (0, 1), (1, 1), 1),
)


@settings(max_examples=60)
@given(
    st.sampled_from(CASES),
    st.sampled_from((1, 2, 4, 8)),
    st.sampled_from(("none", "any")),
    st.booleans(),
    st.booleans(),
    st.sampled_from((1, 3)),
    st.booleans(),
)
def test_every_instruction_set_gives_the_same_bits(
    case: tuple[Any, ...], bits: int, table: str, zero: bool, last: bool, batch: int, joined: bool
) -> None:
    channels, height, width, outputs, kernel, stride, padding, dilation, groups = case
    inputs = kernel[0] * kernel[1] * (channels + -channels % 4)
    made = weight(bits, outputs, inputs, groups=groups, table=table, zero=zero)
    source = torch.Generator().manual_seed(1)
    x = torch.randn(batch, channels, height, width, generator=source)
    x = x.relu() if joined else x
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    shape = functional.conv2d(x, torch.zeros(outputs, channels, *kernel), None, stride, padding, dilation).shape
    residual = torch.randn(shape, generator=source) if joined else None
    arguments: dict[str, Any] = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    arguments |= {"bits": bits, "outputs": outputs, "relu": joined, "residual": residual}
    results = []
    for number in sets():
        with running(module(), number):
            results.append(coded_conv2d(x, *made, **arguments))
    assert all(torch.equal(results[0], result) for result in results)
    assert results[0].shape == shape
    assert results[0].is_contiguous(memory_format=torch.channels_last)
    with running(None):
        reference = coded_conv2d(x, *made, **arguments)
    torch.testing.assert_close(results[0], reference, rtol=1e-6, atol=1e-6 * float(reference.abs().max()))


@pytest.mark.parametrize("channels", [3, 8])
def test_a_convolution_of_whole_numbers_is_exact(channels: int) -> None:
    weights = torch.randint(-8, 8, (20, channels, 3, 3))
    rows = (weights + 8).permute(0, 2, 3, 1).reshape(20, -1).to(torch.uint8)
    codes = pack(conv_rows(rows, (20, channels, 3, 3), fill=8), 4)
    levels = torch.arange(-8, 8, dtype=torch.int8)
    x = torch.randint(-127, 128, (2, channels, 6, 6)).float()
    x[:, 0, 0, 0] = 127
    bias = torch.arange(20.0)
    ones = tile_scales(torch.ones(20, 1))
    out = coded_conv2d(
        x, codes, ones, levels, None, bias, bits=4, outputs=20, kernel=(3, 3), stride=(2, 1), padding=(1, 1), residual=None
    )
    assert torch.equal(out, functional.conv2d(x, weights.float(), bias, (2, 1), (1, 1)))


def test_samples_do_not_depend_on_each_other_and_threads_give_the_same_bits() -> None:
    made = weight(4, 64, 576, zero=True)
    x = torch.randn(9, 64, 16, 16)
    x[3, 5, 1, 1] = float("nan")
    before = torch.get_num_threads()
    arguments: dict[str, Any] = {"bits": 4, "outputs": 64, "kernel": (3, 3), "padding": (1, 1)}
    try:
        torch.set_num_threads(3)
        together = coded_conv2d(x, *made, **arguments)
        torch.set_num_threads(1)
        alone = torch.cat([coded_conv2d(sample[None], *made, **arguments) for sample in x])
    finally:
        torch.set_num_threads(before)
    assert together[3].isnan().all()
    assert together[[0, 1, 2, 4, 5, 6, 7, 8]].isfinite().all()
    assert torch.equal(together.nan_to_num(), alone.nan_to_num())


def test_the_operator_is_sound_for_tracing() -> None:
    made = weight(4, 20, 72, groups=2, table="any", zero=True)
    geometry = ([3, 3], [1, 1], [1, 1], [1, 1])
    torch.library.opcheck(
        torch.ops.modelmill.coded_conv2d.default,
        (torch.randn(2, 8, 5, 5), *made, 4, 20, *geometry, None, torch.randn(2, 20, 5, 5), True),
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.parametrize(
    ("shape", "change", "said"),
    [
        ((8, 5, 5), {}, "takes \\[B, C, H, W\\]"),
        ((1, 8, 2, 5), {}, "does not fit"),
        ((1, 8, 5, 5), {"stride": (0, 1)}, "is not possible"),
        ((1, 9, 5, 5), {}, "codes is"),
        ((1, 8, 5, 5), {"residual": torch.zeros(1, 20, 5, 5)}, "residual is"),
    ],
)
def test_what_does_not_fit_together_is_refused(shape: tuple[int, ...], change: dict[str, Any], said: str) -> None:
    made = weight(4, 20, 72)
    with pytest.raises(CompressionError, match=said):
        coded_conv2d(torch.randn(shape), *made, bits=4, outputs=20, **{"kernel": (3, 3)} | change)
