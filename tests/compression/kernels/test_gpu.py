"""The integer product for GPUs, which is right wherever it runs."""

import pytest
import torch
from torch.nn import functional

from modelmill.kernels.gpu import integer_linear


@pytest.mark.parametrize("rows", [1, 16, 17, 50])
def test_it_is_the_product_with_the_decoded_weight(rows: int) -> None:
    torch.manual_seed(rows)
    codes, scale = torch.randint(-127, 128, (24, 64), dtype=torch.int8), torch.rand(24) + 0.5
    x = torch.randn(rows, 64) * torch.logspace(-3, 3, rows)[:, None]
    found, wanted = integer_linear(x, codes, scale, None), functional.linear(x, codes * scale[:, None])
    # Activations have 8 bits here too, with a scale for each row: every row must be near, also the smallest.
    assert float(((found - wanted).norm(dim=1) / wanted.norm(dim=1)).max()) < 0.03
    giant = torch.full((1, 64), 1e4)
    assert torch.allclose(
        integer_linear(torch.cat([x[:1], giant]), codes, scale, None)[:1], integer_linear(x[:1], codes, scale, None)
    )
