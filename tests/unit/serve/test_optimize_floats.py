"""GELU and attention in a served module: which calls become others, what stays. Not the numbers (tests/compression/kernels)."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from modelmill.kernels import floats
from modelmill.serve.optimize.apply import optimize

WIDTH, HEADS = 32, 2
ROWS = torch.randn(3, 6, WIDTH, generator=torch.Generator().manual_seed(0))
pytestmark = pytest.mark.skipif(not floats.available(), reason="no AVX2: torch's own functions run")


class Block(nn.Module):
    """As people write them: a function for attention, a module or a function for GELU."""

    def __init__(self, activation: Callable[[torch.Tensor], torch.Tensor], **flags: object) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.up, self.down = nn.Linear(WIDTH, 64), nn.Linear(64, WIDTH)
        self.activation, self.flags = activation, flags

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.query, self.key, self.value))
        seen = functional.scaled_dot_product_attention(q, k, v, **self.flags)  # type: ignore[arg-type]  # whatever a test says
        y: torch.Tensor = x + seen.transpose(1, 2).flatten(2)
        z: torch.Tensor = y + self.down(self.activation(self.up(y)))
        return z


class Counting(nn.Module):
    """Cannot be followed as a whole: what it does depends on values."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            if bool(x.isfinite().all()):
                x = block(x)
        return x


class Activation(nn.Module):
    """A module of its own without layers, as libraries have them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.gelu(x)


class Twice(nn.Module):
    """What GELU reads is read again."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.up(x)
        return functional.gelu(y) + y


def answers(module: nn.Module) -> tuple[str, str]:
    """The notes, once the optimized module has answered like the other; and the names of what it calls."""
    module.eval()
    torch.manual_seed(0)
    optimized = optimize(module, example=(ROWS,))
    with torch.inference_mode():
        for rows in (ROWS, ROWS[:1], ROWS[:, :3]):
            torch.testing.assert_close(optimized.module(rows), module(rows), rtol=1e-4, atol=1e-5)
    return "; ".join(optimized.notes), ", ".join(type(part).__name__ for part in optimized.module.modules())


@pytest.mark.parametrize(
    "activation", [functional.gelu, nn.GELU(), nn.GELU("tanh"), lambda x: functional.gelu(x, approximate="tanh")]
)
def test_gelu_and_attention_are_found_as_functions_and_as_modules(activation: Callable[[torch.Tensor], torch.Tensor]) -> None:
    notes, parts = answers(Block(activation))
    assert "2 activations and attentions by own functions" in notes
    assert "Gelu" in parts and "Attention" in parts


def test_they_are_found_in_the_parts_of_what_cannot_be_followed() -> None:
    blocks = Block(functional.gelu), nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU()), nn.GELU(), Activation(), Block(nn.GELU())
    notes, _ = answers(Counting(*blocks))
    assert "7 activations and attentions by own functions" in notes


@pytest.mark.parametrize("flags", [{"is_causal": True}, {"dropout_p": 1e-9}], ids=str)
def test_attention_of_another_kind_stays(flags: dict[str, object]) -> None:
    notes, parts = answers(Block(functional.relu, **flags))
    assert notes == "the model runs as it is"
    assert "Attention" not in parts


def test_what_is_read_again_is_not_overwritten() -> None:
    notes, _ = answers(Twice())
    assert "1 activations" in notes


def test_what_a_hook_has_seen_is_not_overwritten() -> None:
    module, seen = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU()), list[torch.Tensor]()
    module[0].register_forward_hook(lambda *given: seen.append(given[2]))
    module.eval()
    optimized = optimize(module, example=(ROWS,)).module
    seen.clear()
    with torch.inference_mode():
        answer = optimized(ROWS)
    assert not torch.equal(seen[-1], answer)


def test_a_part_with_hooks_keeps_them() -> None:
    module = Counting(Block(functional.gelu), Block(functional.gelu))
    seen: list[int] = []
    module.blocks[0].register_forward_hook(lambda *_: seen.append(1))
    notes, _ = answers(module)
    assert "2 activations" in notes
    assert seen


def test_a_mask_of_zeros_is_not_the_only_one_that_is_tried() -> None:
    """Warm-up rows are zeros: a mask that hides everything would prove nothing."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[bool] = []
            self.linear = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            if isinstance(mask, torch.Tensor) and type(mask) is torch.Tensor:
                self.seen.append(bool(mask.any()))
            q = self.linear(x)[:, None]
            return functional.scaled_dot_product_attention(q, q, q, attn_mask=mask[:, None, None, :].bool())

    module = Masked().eval()
    optimize(module, example=(ROWS, torch.zeros(3, 6, dtype=torch.int64)))
    assert set(module.seen) == {False, True}
