"""Convolutions with int8 blocks: the exact sums on every instruction set, every geometry, and what is refused."""

from typing import Any

import pytest
import torch
from torch.nn import functional

from modelmill.kernels import blocks, integers, products
from modelmill.kernels.block_conv import block_conv2d
from modelmill.kernels.blocks import Blocks
from tests.compression.kernels.sparse_weights import ISAS, as_codes, pruned


def weight_of(outputs: int, channels: int, kernel: tuple[int, int], *, height: int) -> tuple[Blocks, torch.Tensor, torch.Tensor]:
    """The blocks, their codes [N, C, h, w] and scales."""
    codes, scale = as_codes(pruned(outputs, channels * kernel[0] * kernel[1], height=height, kept=0.5))
    dense = codes.view(outputs, *kernel, channels).permute(0, 3, 1, 2)
    return blocks.encode(codes, height=height, scale=scale), dense, scale


@pytest.mark.parametrize(
    ("channels", "kernel", "settings"),
    [
        (3, (3, 3), {}),
        (3, (3, 3), {"padding": (1, 1)}),
        (8, (1, 1), {"stride": (2, 2)}),
        (5, (3, 2), {"padding": (2, 1), "stride": (1, 3)}),
        (4, (3, 3), {"padding": (2, 2), "dilation": (2, 2)}),
        (4, (2, 3), {"padding": "same"}),
        (4, (2, 3), {"padding": "valid", "dilation": (1, 2)}),
    ],
)
@pytest.mark.parametrize("height", blocks.HEIGHTS)
@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch's own way with even kernels copies
def test_the_sums_are_exact_on_every_instruction_set(
    monkeypatch: pytest.MonkeyPatch, channels: int, kernel: tuple[int, int], settings: dict[str, Any], height: int
) -> None:
    weight, dense, scale = weight_of(18, channels, kernel, height=height)
    x, bias = torch.randn(2, channels, 9, 7), torch.randn(18)
    codes, step = integers.quantize_rows(x.flatten(1))
    sums = functional.conv2d(codes.view(x.shape).double(), dense.double(), None, **settings).round().float()
    expected = sums * scale[:, None, None] * step[:, None, None, None] + bias[:, None, None]
    for isa in ISAS:
        monkeypatch.setattr(products, "ISA", isa)
        for image in (x, x.contiguous(memory_format=torch.channels_last)):
            answer = block_conv2d(image, weight, bias, kernel=kernel, **settings)
            assert torch.equal(answer, expected), isa
            assert answer.is_contiguous(memory_format=torch.channels_last)


def test_a_sample_answers_the_same_whoever_is_in_the_batch() -> None:
    weight, _, _ = weight_of(16, 3, (3, 3), height=16)
    x = torch.randn(3, 3, 6, 6) * torch.tensor([1.0, 100.0, torch.nan])[:, None, None, None]
    whole = block_conv2d(x, weight, kernel=(3, 3))
    assert torch.equal(block_conv2d(x[0], weight, kernel=(3, 3)), whole[0])
    assert torch.equal(block_conv2d(x[1:2], weight, kernel=(3, 3))[0], whole[1])
    assert bool(whole[2].isnan().all())


def test_a_given_activation_scale_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = blocks.encode(torch.ones(4, 1, dtype=torch.int8), height=4, scale=torch.ones(4))
    x = torch.tensor([[[[1e9, -0.26]]]])
    for isa in ISAS:
        monkeypatch.setattr(products, "ISA", isa)
        assert block_conv2d(x, weight, kernel=(1, 1), activation_scale=0.5)[0, 0].tolist() == [[63.5, -0.5]]


def test_images_and_weights_that_do_not_fit_are_refused() -> None:
    weight, _, _ = weight_of(16, 3, (3, 3), height=16)
    with pytest.raises(ValueError, match="smaller than the kernel"):
        block_conv2d(torch.ones(1, 3, 2, 2), weight, kernel=(3, 3))
    with pytest.raises(ValueError, match="27 inputs"):
        block_conv2d(torch.ones(1, 4, 5, 5), weight, kernel=(3, 3))
    with pytest.raises(ValueError, match="float blocks"):
        block_conv2d(torch.ones(1, 2, 5, 5), blocks.encode(torch.ones(4, 2), height=4), kernel=(1, 1))
