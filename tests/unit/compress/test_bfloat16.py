"""bfloat16: half the bytes, the same interface, and computed in whatever the machine is good at."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from modelmill.compress import container
from modelmill.compress.apply import load_variant
from modelmill.compress.codecs import bfloat16
from modelmill.compress.errors import BadArtifact, CompressionError
from modelmill.compress.pipeline import compress
from modelmill.compress.weights import Plain, write_weights
from modelmill.contract.steps import Prune, Quantize, Step
from tests.unit.compress.models import conv_net, dense_net

BF16 = (Step(quantize=Quantize(method="BFloat16")),)


@pytest.fixture(params=[True, False], ids=["with instructions", "without"])
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    monkeypatch.setattr(bfloat16, "is_native", lambda: request.param)
    yield request.param


def saved(module: nn.Module, steps: Sequence[Step], folder: Path) -> Path:
    path = folder / "v.safetensors"
    write_weights(path, compress(module, steps).weights)
    return path


@pytest.mark.parametrize("make", [dense_net, conv_net])
def test_answers_are_as_close_as_eight_bits_of_mantissa_can_be(make: object, native: bool, tmp_path: Path) -> None:
    assert callable(make)
    trained = make(seed=1).eval()
    x = torch.randn(8, 64) if make is dense_net else torch.randn(4, 3, 12, 12)
    loaded = load_variant(make(seed=2), saved(trained, BF16, tmp_path))
    answer, wanted = loaded(x), trained(x).detach()
    assert answer.dtype == torch.float32
    assert float((answer - wanted).norm() / wanted.norm()) < 0.02
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16 if native else torch.float32}


def test_the_file_has_half_the_bytes_and_keeps_whole_numbers(tmp_path: Path) -> None:
    trained = conv_net(seed=1)
    dense, rounded = tmp_path / "dense", tmp_path / "rounded"
    for folder in (dense, rounded):
        folder.mkdir()
    ratio = saved(trained, BF16, rounded).stat().st_size / saved(trained, (), dense).stat().st_size
    assert 0.5 < ratio < 0.62
    tensors, _ = container.read(rounded / "v.safetensors")
    for name, tensor in trained.state_dict().items():
        assert tensors[name].dtype == (torch.bfloat16 if tensor.is_floating_point() else tensor.dtype)


def test_it_follows_pruning_and_nothing_follows_it() -> None:
    prune, round_ = Step(prune=Prune(method="Threshold", threshold=0.05)), Step(quantize=Quantize(method="BFloat16"))
    made = compress(dense_net(seed=1), (prune, round_))
    assert made.sparsity > 0
    assert {weight.data.dtype for weight in made.weights.values() if isinstance(weight, Plain)} == {torch.bfloat16}
    with pytest.raises(CompressionError, match=r"steps\[1\]: prune cannot follow quantize"):
        compress(dense_net(seed=1), (round_, prune))


def test_values_that_are_not_finite_are_refused_with_their_tensor() -> None:
    module = dense_net(seed=1)
    with torch.no_grad():
        next(module.parameters())[0, 0] = torch.nan
    with pytest.raises(CompressionError, match=r"tensor '0.weight': not all values are finite"):
        compress(module, BF16)


def test_a_file_whose_descriptor_and_tensor_differ_is_refused(tmp_path: Path) -> None:
    module = nn.Linear(4, 2)
    for codec, dtype, words in (
        ("bfloat16", torch.float32, "the codec bfloat16 stores torch.bfloat16, the file has torch.float32"),
        ("dense", torch.bfloat16, "the model has torch.float32"),
    ):
        tensors = {name: tensor.to(dtype) for name, tensor in module.state_dict().items()}
        text = json.dumps({"format": 2, "tensors": {name: {"codec": codec} for name in tensors}})
        container.write(tmp_path / "v.safetensors", tensors, metadata={"modelmill": text})
        with pytest.raises(BadArtifact, match=words):
            load_variant(nn.Linear(4, 2), tmp_path / "v.safetensors")


class Counting(nn.Module):
    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.tensor(3))
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, k: torch.Tensor, x: torch.Tensor) -> dict[str, torch.Tensor]:
        assert k.dtype == torch.int64
        return {"y": x * self.scale, "n": k + self.count}


def test_integers_stay_integers_in_and_out(native: bool, tmp_path: Path) -> None:
    loaded = load_variant(Counting(), saved(Counting(), BF16, tmp_path))
    found = loaded(torch.tensor([1, 2]), torch.tensor([0.5, 0.25]))
    assert {name: (value.dtype, value.tolist()) for name, value in found.items()} == {
        "y": (torch.float32, [0.5, 0.25]),
        "n": (torch.int64, [4, 5]),
    }
