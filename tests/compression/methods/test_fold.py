"""Batch norms that are folded before weights are rounded: when, what the file holds, and what is refused. Not: serving."""

from pathlib import Path

import pytest
import torch
from torch import nn

from modelmill.compress.apply import load_variant
from modelmill.compress.errors import BadArtifact
from modelmill.compress.fold import place
from modelmill.compress.pipeline import compress
from modelmill.compress.structure import apply_edits, from_json
from modelmill.compress.weights import write_weights
from modelmill.contract.steps import Distill, Prune, Quantize, Step, Training
from tests.compression.methods.taught import Rows, context, dense_of

INT8 = Step(quantize=Quantize())
PRUNED = Step(prune=Prune(method="Threshold", threshold=0.05))
SHORT = Training(epochs=1, lr=0.01, batch_size=8)
FOLDED = {"edit": "fold", "path": "conv", "norm": "norm"}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.head(self.norm(self.conv(x)).relu().mean((2, 3)))
        return answer


class Reading(Net):
    """Its forward asks the norm for more than its answer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = super().forward(x) + self.norm.weight.sum()
        return answer


def used(module: Net) -> Net:
    """With statistics that a training could have left."""
    torch.manual_seed(0)
    for tensor in (module.norm.running_mean, module.norm.running_var, module.norm.weight, module.norm.bias):
        assert tensor is not None
        tensor.data.uniform_(0.5, 1.5)
    return module.eval()


def material() -> Rows:
    return Rows(torch.randn(32, 3, 6, 6), torch.randint(4, (32,)))


def test_a_file_without_norms_answers_as_the_pruned_module_with_them(tmp_path: Path) -> None:
    module, rows = used(Net()), material()
    made = compress(module, (PRUNED,), context(rows, teacher=module))
    assert made.structure == (FOLDED,)
    assert not any(name.startswith("norm") for name in made.weights)
    write_weights(tmp_path / "w", made.weights, structure=made.structure)
    folded = load_variant(Net(), tmp_path / "w")
    with torch.no_grad():
        for name in ("conv.weight", "head.weight"):
            zeros = dense_of(made.weights[name]) == 0
            assert bool(zeros.any())
            module.get_parameter(name)[zeros] = 0
        torch.testing.assert_close(folded(rows.inputs), module(rows.inputs))


@pytest.mark.parametrize(
    ("steps", "folded"),
    [
        ((INT8,), True),
        ((PRUNED, Step(distill=Distill(training=SHORT)), INT8), True),
        ((Step(prune=Prune(sparsity=0.3, training=SHORT)),), True),
        ((Step(quantize=Quantize(training=SHORT)),), False),
    ],
    ids=("nothing trains", "after the training", "after all", "not under trained grids"),
)
def test_norms_are_folded_once_nothing_trains_any_more(steps: tuple[Step, ...], folded: bool) -> None:
    module = used(Net())
    made = compress(module, steps, context(material(), teacher=module))
    assert (FOLDED in made.structure) == folded


def test_norms_are_folded_after_channels_went_since_they_settle_on_what_is_left() -> None:
    assert place((Step(prune=Prune(method="Channels", sparsity=0.3)), INT8)) == 1


def test_a_module_that_reads_its_norm_keeps_it() -> None:
    module = used(Reading())
    assert compress(module, (INT8,), context(material(), teacher=module)).structure == ()


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        ({"path": "head", "norm": "norm"}, "BatchNorm2d cannot be folded into Linear"),
        ({"path": "conv", "norm": "head"}, "Linear cannot be folded into Conv2d"),
        ({"path": "conv", "norm": "nothing"}, "no such layer"),
        ({"path": "conv", "norm": 3}, "must be text"),
        ({"path": "conv"}, "needs the key 'norm'"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused(edit: dict[str, object], reason: str) -> None:
    with pytest.raises(BadArtifact, match=reason):
        apply_edits(Net(), from_json([{"edit": "fold", **edit}]))


def test_a_norm_of_another_width_and_one_that_is_gone_are_refused() -> None:
    module = Net()
    module.norm = nn.BatchNorm2d(8)
    with pytest.raises(BadArtifact, match="the norm is of 8 channels, the convolution has 16"):
        apply_edits(module, from_json([FOLDED]))
    with pytest.raises(BadArtifact, match="Identity cannot be folded"):
        apply_edits(Net(), from_json([FOLDED, FOLDED]))
