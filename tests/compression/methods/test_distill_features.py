"""Feature and attention matching: which layers are matched, the distances, and that a student's layers come nearer."""

import pytest
import torch
from torch import nn

from modelmill.compress.distill import features, simple
from modelmill.compress.distill.features import Matching, Method, attention, default_pairs
from modelmill.compress.distill.simple import Soft
from modelmill.compress.errors import CompressionError
from modelmill.compress.tune import Training, task_loss, tune
from tests.compression.methods.taught import CLASSES, Rows, blobs, context, mlp

TRAINING = Training(epochs=4, lr=0.02, batch_size=32)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.bn(self.conv(x)).relu()
        return y


class Net(nn.Module):
    def __init__(self, width: int, *, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.blocks = nn.Sequential(Block(1, width, stride=1), Block(width, width, stride=1), Block(width, 2 * width, stride=2))
        self.head = nn.Linear(2 * width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.blocks(x).mean(dim=(2, 3)))
        return y


def images(*, seed: int = 0, rows: int = 256) -> Rows:
    """A bright spot in one of four corners of 6 x 6 pixels."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(CLASSES, (rows,), generator=generator)
    pixels = 0.8 * torch.randn(rows, 1, 6, 6, generator=generator)
    for row, corner in enumerate(targets.tolist()):
        top, left = 3 * (corner // 2), 3 * (corner % 2)
        pixels[row, 0, top : top + 3, left : left + 3] += 1
    # Corners look alike to a mean over positions; a ramp tells them apart.
    return Rows(pixels + torch.linspace(0, 2, 36).view(1, 1, 6, 6), targets)


def test_one_pair_of_blocks_for_each_resolution_is_the_default() -> None:
    pairs = default_pairs(Net(4, seed=0), Net(6, seed=1), images().inputs[:2], method="Attention")
    assert pairs == [("blocks.1", "blocks.1"), ("blocks.2", "blocks.2")]


def test_layers_are_paired_where_there_are_no_blocks_and_the_answer_is_not_among_them() -> None:
    pairs = default_pairs(mlp(hidden=8), mlp(hidden=12), blobs().inputs[:2], method="Features")
    assert pairs == [("3", "3")]
    with pytest.raises(CompressionError, match="no layers of the same path and size"):
        default_pairs(mlp(hidden=8), mlp(hidden=12), blobs().inputs[:2], method="Attention")


def test_attention_is_where_a_layer_is_active_whatever_its_width_and_size() -> None:
    narrow = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    wide = torch.cat([narrow, narrow], dim=1) * 5
    assert torch.allclose(attention(narrow), attention(wide), atol=1e-6)
    assert torch.allclose(attention(narrow).norm(dim=1), torch.ones(3))
    tokens = narrow.flatten(2).transpose(1, 2)
    assert torch.allclose(attention(tokens), attention(narrow))


def teacher_of(material: Rows) -> Net:
    teacher, job = Net(6, seed=3), context(material, teacher=Net(1, seed=0))
    tune(teacher, job, TRAINING, loss=task_loss(job), label="teacher")
    return teacher


def apart(student: Net, teacher: Net, held: Rows, method: Method) -> float:
    """Of the first resolution: the difference of the attention, or what no linear map of the student's channels tells."""
    with torch.no_grad():
        ours, theirs = (nn.Sequential(net.blocks[0], net.blocks[1])(held.inputs) for net in (student, teacher))
    if method == "Attention":
        return float((attention(ours) - attention(theirs)).square().sum(dim=1).mean())
    known, wanted = (part.transpose(0, 1).flatten(1).T for part in (ours, theirs))
    known = torch.cat([known, torch.ones(len(known), 1)], dim=1)
    return float((known @ torch.linalg.lstsq(known, wanted).solution - wanted).square().mean())


@pytest.mark.parametrize(("method", "weight", "pairs"), [("Attention", 20.0, ()), ("Features", 5.0, (("blocks.1", "blocks.1"),))])
def test_a_students_layers_come_nearer_to_the_teachers_than_by_its_answers_alone(
    method: Method, weight: float, pairs: tuple[tuple[str, str], ...]
) -> None:
    material, held = images(), images(seed=5)
    teacher = teacher_of(material)
    job = context(material, teacher=teacher)
    plain, matched = Net(5, seed=7), Net(5, seed=7)
    training = Training(epochs=4, lr=0.03, batch_size=32, optimizer="AdamW")
    simple.distill(plain, job, training, soft=Soft())
    features.distill(matched, job, training, soft=Soft(), matching=Matching(method=method, weight=weight, pairs=pairs))
    assert apart(matched, teacher, held, method) < 0.8 * apart(plain, teacher, held, method)
    assert {name: tensor.shape for name, tensor in matched.state_dict().items()} == {
        name: tensor.shape for name, tensor in plain.state_dict().items()
    }


def test_pairs_that_do_not_exist_or_do_not_match_are_refused_by_name() -> None:
    material = images(rows=8)
    job = context(material, teacher=Net(6, seed=3))
    for pairs, wrong in (
        ((("blocks.9", "blocks.1"),), "'blocks.9': the student has no such layer"),
        ((("blocks.1", "nine"),), "'nine': the teacher has no such layer"),
        ((("blocks.1", "blocks.2"),), r"outputs \[2, 3, 6, 6\] and \[2, 12, 3, 3\] must agree"),
        ((("head", "head"),), "and have positions"),
    ):
        with pytest.raises(CompressionError, match=wrong):
            features.distill(Net(3, seed=7), job, TRAINING, soft=Soft(), matching=Matching(pairs=pairs))


def test_no_hook_is_left_behind() -> None:
    job = context(images(rows=8), teacher=Net(6, seed=3))
    student = Net(3, seed=7)
    features.distill(student, job, Training(max_steps=1), soft=Soft(), matching=Matching())
    assert not any(layer._forward_hooks for module in (student, job.teacher) for layer in module.modules())
