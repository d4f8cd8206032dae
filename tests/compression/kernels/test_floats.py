"""GELU and attention of the native module beside torch's, and torch's own where the native ones do not apply."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from modelmill.kernels import floats

RELATIVE, ABSOLUTE = 1e-5, 2e-6
MASKS = ("none", "keys", "keys of each query", "all but one", "nothing seen", "added", "added to each")


def heads(rows: int, count: int, length: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """[N, H, T, D] as a linear layer's output becomes it: a view with the heads side by side."""
    together = torch.randn(rows, length, count * width, generator=generator)
    return together.view(rows, length, count, width).transpose(1, 2)


def mask_of(kind: str, shape: tuple[int, int, int, int], generator: torch.Generator) -> torch.Tensor | None:
    rows, count, queries, keys = shape
    match kind:
        case "keys":
            return torch.rand(rows, 1, 1, keys, generator=generator) < 0.6
        case "keys of each query":
            return torch.rand(rows, count, queries, keys, generator=generator) < 0.6
        case "all but one":
            return torch.arange(keys)[None] == keys - 1
        case "nothing seen":
            return torch.zeros(rows, 1, 1, keys, dtype=torch.bool)
        case "added":
            return 3 * torch.randn(queries, keys, generator=generator)
        case "added to each":
            return torch.randn(rows, 1, queries, keys, generator=generator).where(torch.rand(keys) < 0.8, -torch.inf)
    return None


@settings(max_examples=150)
@given(
    rows=st.integers(1, 3),
    count=st.integers(1, 3),
    queries=st.integers(1, 21),
    keys=st.integers(1, 37),
    width=st.sampled_from((8, 16, 24, 32, 40)),
    kind=st.sampled_from(MASKS),
    scale=st.sampled_from((None, 0.3)),
    threads=st.integers(1, 2),
    seed=st.integers(0, 1 << 16),
)
def test_attention_answers_as_torchs(
    rows: int, count: int, queries: int, keys: int, width: int, kind: str, scale: float | None, threads: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    q = heads(rows, count, queries, width, generator)
    k, v = (heads(rows, count, keys, width, generator) for _ in range(2))
    mask = mask_of(kind, (rows, count, queries, keys), generator)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = floats.attention(q, k, v, mask, scale=scale)
    finally:
        torch.set_num_threads(before)
    wanted = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    torch.testing.assert_close(found, wanted, rtol=RELATIVE, atol=ABSOLUTE)


def test_long_rows_and_many_heads_use_every_thread() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (heads(2, 12, 150, 64, generator) for _ in range(3))
    wanted = functional.scaled_dot_product_attention(q, k, v)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        torch.testing.assert_close(floats.attention(q, k, v), wanted, rtol=RELATIVE, atol=ABSOLUTE)
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    "change",
    [
        lambda q: q.double(),
        lambda q: q[..., :12].contiguous(),
        lambda q: q[0],
        lambda q: q.transpose(2, 3).contiguous().transpose(2, 3),
        lambda q: q.clone().requires_grad_(),
        lambda q: q.repeat(1, 1, floats.MOST_KEYS, 1),
    ],
    ids=("float64", "an odd width", "no batch", "values apart", "with gradient", "long rows"),
)
def test_what_the_native_attention_does_not_know_is_torchs(change: "object") -> None:
    assert callable(change)
    q: torch.Tensor = change(torch.randn(1, 2, 5, 16, generator=torch.Generator().manual_seed(0)))
    found, wanted = floats.attention(q, q, q), functional.scaled_dot_product_attention(q, q, q)
    torch.testing.assert_close(found, wanted)
    assert found.requires_grad == q.requires_grad


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("size", [1, 7, 8, 1001, 1 << 20])
def test_gelu_answers_as_torchs(approximate: str, in_place: bool, size: int) -> None:
    x = torch.linspace(-12, 12, size)
    wanted = functional.gelu(x.double(), approximate=approximate).float()
    given = x.clone()
    found = floats.gelu(given, approximate, in_place=in_place)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert torch.equal(given, found if in_place else x)


def test_gelu_of_numbers_that_are_none() -> None:
    found = floats.gelu(torch.tensor([torch.inf, torch.nan, 1e38, -1e38, 0.0]))
    assert found[0] == torch.inf and found[1].isnan() and found[2] == 1e38 and found[3] == 0 and found[4] == 0


def test_gelu_of_other_types_and_orders_is_torchs() -> None:
    for x in (torch.randn(4, 6).double(), torch.randn(4, 6).t(), torch.randn(4, 6, requires_grad=True)):
        torch.testing.assert_close(floats.gelu(x, in_place=True), functional.gelu(x))
