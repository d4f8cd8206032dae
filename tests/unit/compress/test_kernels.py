"""Products on codes against the product with the decoded weight."""

import pytest
import torch
from torch.nn import functional

from modelmill.compress import kernels
from modelmill.compress.codecs import uniform

BFLOAT16_ERROR = 0.01
EXACT = 1e-5


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    return float((found - wanted).norm() / wanted.norm().clamp_min(1e-12))


def codes_of(*shape: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(sum(shape))
    codes, scale = uniform.encode(torch.randn(*shape), name="w")
    return codes, scale.flatten(), uniform.decode(codes, scale)


@pytest.mark.parametrize("rows", [0, 1, 2, 5, 16, 17, 64])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 10), (16, 1), (33, 10), (7, 3), (1, 1), (256, 256), (4096, 70)])
def test_a_linear_product_is_that_of_the_decoded_weight(rows: int, inputs: int, outputs: int) -> None:
    codes, scale, weight = codes_of(outputs, inputs)
    x = torch.randn(rows, inputs)
    assert error(kernels.int8_linear(x, codes, scale, None), functional.linear(x, weight)) < BFLOAT16_ERROR


@pytest.mark.parametrize(("inputs", "outputs"), [(33, 10), (256, 256), (5000, 200), (3, 1)])
def test_tiles_lose_nothing(inputs: int, outputs: int) -> None:
    codes, scale, weight = codes_of(outputs, inputs)
    x = torch.randn(40, inputs)
    assert error(kernels.tiled_linear(x, codes, scale, None), functional.linear(x, weight)) < EXACT


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_result_has_the_dtype_of_the_activations(dtype: torch.dtype) -> None:
    codes, scale, _ = codes_of(32, 64)
    assert kernels.int8_linear(torch.randn(3, 64, dtype=dtype), codes, scale, None).dtype == dtype
    assert kernels.int8_linear(torch.randn(30, 64, dtype=dtype), codes, scale, None).dtype == dtype


@pytest.mark.parametrize("rows", [1, 16, 17, 50])
def test_the_integer_product_for_gpus_is_right_wherever_it_runs(rows: int) -> None:
    codes, scale, weight = codes_of(24, 64)
    x = torch.randn(rows, 64) * torch.logspace(-3, 3, rows)[:, None]
    found, wanted = kernels.integer_linear(x, codes, scale, None), functional.linear(x, weight)
    # Activations have 8 bits here too, with a scale for each row: every row must be near, also the smallest.
    assert float(((found - wanted).norm(dim=1) / wanted.norm(dim=1)).max()) < 0.03


def test_a_rows_answer_does_not_depend_on_its_neighbours_size() -> None:
    codes, scale, _ = codes_of(64, 64)
    row, giant = torch.randn(1, 64), torch.full((1, 64), 1e4)
    alone = kernels.int8_linear(row, codes, scale, None)
    assert torch.allclose(kernels.int8_linear(torch.cat([row, giant]), codes, scale, None)[:1], alone, rtol=1e-2, atol=1e-3)
    assert torch.allclose(
        kernels.integer_linear(torch.cat([row, giant]), codes, scale, None)[:1], kernels.integer_linear(row, codes, scale, None)
    )


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (1, 1), (2, 0), (2, 1), (1, "same")])
@pytest.mark.parametrize(("channels", "outputs", "kernel"), [(3, 16, 3), (16, 1, 1), (40, 37, 3), (64, 600, 3)])
def test_a_convolution_is_that_of_the_decoded_weight(
    stride: int, padding: int | str, channels: int, outputs: int, kernel: int
) -> None:
    codes, scale, weight = codes_of(outputs, channels, kernel, kernel)
    x = torch.randn(2, channels, 9, 8)
    given = padding if isinstance(padding, str) else (padding, padding)
    found = kernels.tiled_conv2d(x, codes, scale, None, stride=(stride, stride), padding=given, dilation=(1, 1))
    assert error(found, functional.conv2d(x, weight, None, stride, padding)) < EXACT
