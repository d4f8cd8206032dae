"""While compressed weights serve, no single allocation is as large as the dense form of a weight.

Counted where torch's CPU allocator reports every request, also those of temporaries inside operators. The public
profiler nets allocations against frees, and starts for half a minute on a machine without GPU: not used.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._C import _autograd, _profiler

from modelmill.compress.apply import load_variant
from modelmill.compress.pipeline import compress
from modelmill.compress.weights import write_weights
from modelmill.contract.steps import Prune, Quantize, Step


def largest_allocation(module: nn.Module, x: torch.Tensor) -> int:
    only_memory = _profiler.ProfilerConfig(
        _profiler.ProfilerState.CPU, False, True, False, False, False, _profiler._ExperimentalConfig()
    )
    with torch.inference_mode():
        module(x)
        _autograd._enable_profiler_legacy(only_memory)
        module(x)
        threads = _autograd._disable_profiler_legacy()
    return max(event.cpu_memory_usage() for events in threads for event in events if event.kind() == "memory_alloc")  # type: ignore[comparison-overlap]  # a str in truth


def prune(pattern: str) -> Step:
    return Step(prune=Prune(sparsity=0.5, pattern=pattern))


def quantize(method: str, bits: int | None = None, granularity: str = "Channel") -> Step:
    return Step(quantize=Quantize(method=method, bits=bits, granularity=granularity))


FORMS: dict[str, tuple[Step, ...]] = {
    "int8": (quantize("Uniform"),),
    "int4 in groups": (quantize("Uniform", 4, "Group"),),
    "codebook": (quantize("KMeans", 4),),
    "ternary": (quantize("Ternary"),),
    "binary": (quantize("Binary"),),
    "signs": (quantize("XNOR"),),
    "blocks": (prune("16x1"),),
    "int8 blocks": (prune("4x1"), quantize("Uniform")),
    "2:4": (prune("2:4"),),
    "int8 2:4": (prune("2:4"), quantize("Uniform")),
    "single values": (prune("Unstructured"),),
    "int8 single values": (prune("Unstructured"), quantize("Uniform")),
}


def compressed(module: nn.Module, fresh: nn.Module, steps: Sequence[Step], folder: Path) -> nn.Module:
    write_weights(folder / "w", compress(module, steps).weights)
    return load_variant(fresh, folder / "w")


def linear() -> nn.Module:
    return nn.Sequential(nn.Linear(512, 512, bias=False))


def odd_linear() -> nn.Module:
    return nn.Sequential(nn.Linear(509, 512))


def convolution() -> nn.Module:
    return nn.Sequential(nn.Conv2d(128, 128, 3))


CALLS: dict[str, tuple[Callable[[], nn.Module], torch.Tensor]] = {
    "linear, a row": (linear, torch.randn(1, 512)),
    "linear, 64 rows": (linear, torch.randn(64, 512)),
    "odd linear, a row": (odd_linear, torch.randn(1, 509)),
    "odd linear, 64 rows": (odd_linear, torch.randn(64, 509)),
    "convolution": (convolution, torch.randn(1, 128, 6, 6)),
}


@pytest.mark.parametrize(
    ("make", "x", "steps"),
    [
        pytest.param(*call, steps, id=f"{form}: {name}")
        for form, steps in FORMS.items()
        for name, call in CALLS.items()
        # 2:4 leaves inputs that are no multiple of 4 dense.
        if not ("2:4" in form and "odd" in name)
    ],
)
def test_the_forward_pass_never_holds_a_dense_weight(
    tmp_path: Path, make: Callable[[], nn.Module], x: torch.Tensor, steps: Sequence[Step]
) -> None:
    dense = make()
    weight_bytes = max(parameter.nbytes for parameter in dense.parameters())
    assert largest_allocation(compressed(dense, make(), steps, tmp_path), x) < weight_bytes


def test_the_count_does_see_a_weight_that_is_unpacked() -> None:
    codes = torch.ones(512, 512, dtype=torch.int8)

    class Unpacking(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ codes.float().t()

    assert largest_allocation(Unpacking(), torch.randn(1, 512)) >= 512 * 512 * 4
