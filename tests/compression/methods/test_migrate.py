"""Parameter migration: which values become which, what is exact, what stays fresh, and that training begins ahead."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from modelmill.compress.errors import CompressionError
from modelmill.compress.migrate import Rule, migrate, places
from modelmill.compress.tune import Training, task_loss, tune
from tests.compression.methods.taught import blobs, context, mlp

RULES: tuple[Rule, ...] = ("Select", "Slice", "Average")


def answers(module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = module.eval()(inputs)
    return result


def widened(tensor: torch.Tensor, times: int, *, outputs: bool, inputs: bool) -> torch.Tensor:
    """Each hidden unit `times` times, side by side; what goes in is shared among the copies."""
    if outputs:
        tensor = tensor.repeat_interleave(times, dim=0)
    return tensor.repeat_interleave(times, dim=1) / times if inputs else tensor


@given(st.integers(1, 4), st.integers(0, 20))
@settings(max_examples=10)
def test_average_is_exact_where_units_are_copies_of_one_another(times: int, seed: int) -> None:
    small, wide, student = mlp(hidden=5, seed=seed), mlp(hidden=5 * times), mlp(hidden=5, seed=seed + 1)
    state = {}
    for name, tensor in small.state_dict().items():
        hidden = tensor.dim() > 0 and name.split(".")[0] in "013"
        state[name] = widened(tensor, times, outputs=hidden, inputs=name in ("3.weight", "5.weight"))
    wide.load_state_dict(state)
    inputs = blobs(rows=16).inputs
    assert torch.allclose(answers(wide, inputs), answers(small, inputs), atol=1e-5)
    migrate(student, wide, rule="Average")
    assert torch.allclose(answers(student, inputs), answers(small, inputs), atol=1e-5)


def test_average_takes_the_mean_of_outputs_and_the_sum_of_inputs() -> None:
    teacher, student = nn.Sequential(nn.Linear(4, 6)), nn.Sequential(nn.Linear(2, 3))
    migrate(student, teacher, rule="Average")
    weight, bias = teacher.state_dict()["0.weight"], teacher.state_dict()["0.bias"]
    assert torch.allclose(student.state_dict()["0.weight"], weight.view(3, 2, 2, 2).mean(dim=1).sum(dim=-1))
    assert torch.allclose(student.state_dict()["0.bias"], bias.view(3, 2).mean(dim=1))


def test_average_keeps_the_scale_of_images_of_equal_channels() -> None:
    wide, narrow = (nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.Conv2d(width, 2, 3)) for width in (6, 2))
    with torch.no_grad():
        for name in ("0.weight", "0.bias"):
            wide.state_dict()[name].copy_(wide.state_dict()[name][:1].expand_as(wide.state_dict()[name]))
    migrate(narrow, wide, rule="Average")
    inputs = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(answers(narrow, inputs), answers(wide, inputs), atol=1e-5)


@pytest.mark.parametrize(("rule", "rows"), [("Select", [0, 2, 5]), ("Slice", [0, 1, 2])])
def test_select_and_slice_keep_values(rule: Rule, rows: list[int]) -> None:
    teacher, student = nn.Sequential(nn.Linear(8, 8)), nn.Sequential(nn.Linear(3, 3))
    migrate(student, teacher, rule=rule)
    assert torch.equal(student.state_dict()["0.weight"], teacher.state_dict()["0.weight"][rows][:, rows])
    assert torch.equal(student.state_dict()["0.bias"], teacher.state_dict()["0.bias"][rows])


@given(st.integers(1, 30), st.integers(1, 30))
@settings(max_examples=30)
def test_every_value_of_the_teacher_belongs_to_one_place(one: int, two: int) -> None:
    into, of = sorted((one, two))
    groups = places(of=of, into=into)
    assert len(groups) == into
    assert [value for group in groups for value in group] == list(range(of))
    sizes = {len(group) for group in groups}
    assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("rule", RULES)
def test_the_same_shapes_are_copied_exactly(rule: Rule) -> None:
    teacher, student = mlp(seed=1), mlp(seed=2)
    report = migrate(student, teacher, rule=rule)
    assert report.fresh == {}
    assert all(torch.equal(tensor, teacher.state_dict()[name]) for name, tensor in student.state_dict().items())


class Tower(nn.Module):
    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(blocks))


@pytest.mark.parametrize(("blocks", "taken"), [(1, [0]), (2, [0, 6]), (3, [0, 3, 6]), (4, [0, 2, 4, 6]), (7, list(range(7)))])
def test_blocks_of_a_deeper_teacher_are_taken_evenly_with_the_first_and_the_last(blocks: int, taken: list[int]) -> None:
    teacher, student = Tower(7), Tower(blocks)
    report = migrate(student, teacher, rule="Select")
    for number, origin in enumerate(taken):
        assert report.mapped[f"blocks.{number}.0.weight"] == f"blocks.{origin}.0.weight"
        assert torch.equal(student.state_dict()[f"blocks.{number}.0.weight"], teacher.state_dict()[f"blocks.{origin}.0.weight"])


def test_layers_of_different_types_in_a_container_are_matched_by_name() -> None:
    report = migrate(mlp(hidden=8), nn.Sequential(*mlp(hidden=16), nn.Identity(), nn.Linear(4, 4)), rule="Slice")
    assert report.mapped["5.weight"] == "5.weight: Slice 16 to 8"


def test_the_three_projections_of_attention_are_cut_each_for_itself() -> None:
    teacher, student = nn.MultiheadAttention(8, 2), nn.MultiheadAttention(4, 2)
    migrate(student, teacher, rule="Select")
    wide = teacher.state_dict()["in_proj_weight"].view(3, 8, 8)
    assert torch.equal(student.state_dict()["in_proj_weight"].view(3, 4, 4), wide[:, ::2, ::2])


def test_what_cannot_be_mapped_stays_fresh_with_the_reason() -> None:
    teacher = nn.ModuleDict({"same": nn.Linear(4, 4), "conv": nn.Conv2d(4, 4, 3), "less": nn.Linear(2, 2)})
    student = nn.ModuleDict(
        {"same": nn.Linear(4, 2), "conv": nn.Conv2d(4, 2, 1), "less": nn.Linear(3, 2), "new": nn.Linear(1, 1)}
    )
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    report = migrate(student, teacher, rule="Average")
    assert report.mapped == {
        "same.weight": "same.weight: Average 4 to 2",
        "same.bias": "same.bias: Average 4 to 2",
        "conv.bias": "conv.bias: Average 4 to 2",
        "less.bias": "less.bias",
    }
    assert "kernels of other sizes" in report.fresh["conv.weight"]
    assert "larger" in report.fresh["less.weight"]
    assert "none of this name" in report.fresh["new.weight"]
    assert all(torch.equal(student.state_dict()[name], before[name]) for name in report.fresh)


def test_a_teacher_without_a_common_name_is_refused() -> None:
    with pytest.raises(CompressionError, match="no parameter of the model fits one of the teacher"):
        migrate(mlp(), nn.ModuleDict({"other": nn.Linear(4, 4)}), rule="Select")


@pytest.mark.parametrize("rule", RULES)
def test_a_migrated_student_learns_faster_than_a_fresh_one(rule: Rule) -> None:
    teacher, job = mlp(hidden=64, seed=3), context(blobs())
    tune(teacher, job, Training(epochs=4, lr=0.05, batch_size=32), loss=task_loss(job), label="teacher")
    losses = []
    for migrated in (False, True):
        total = 0.0
        for seed in (7, 8):
            student = mlp(hidden=32, seed=seed)
            if migrated:
                migrate(student, teacher, rule=rule)
            total += sum(tune(student, job, Training(max_steps=12, lr=0.01), loss=task_loss(job), label="student"))
        losses.append(total)
    assert losses[1] < 0.8 * losses[0]
