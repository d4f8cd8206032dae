"""Masks: exact counts, what is kept, and where groups and blocks lie. Not: what a step of a variant does with them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from modelmill.compress.codes import rows_of
from modelmill.compress.errors import CompressionError
from modelmill.compress.prune import blocks, gradient, magnitude, n_of_m, threshold, wanda
from modelmill.compress.prune.masks import Scope, largest, largest_of_rows, sparsity_of
from tests.unit.compress.models import conv_net, dense_net

# Few different values, so that most are equal to another.
numbers = st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, 1e-30, -3e30, 7.0]), min_size=1, max_size=40)
fractions = st.floats(0, 1)


@given(numbers, fractions)
def test_the_sparsity_is_within_one_element_of_the_target(values: list[float], sparsity: float) -> None:
    weight = torch.tensor(values)
    mask = magnitude.mask(weight, sparsity=sparsity)
    assert abs(int((~mask).sum()) - sparsity * len(values)) < 1
    kept, dropped = weight.abs()[mask], weight.abs()[~mask]
    assert not (len(kept) and len(dropped)) or float(kept.min()) >= float(dropped.max())


@given(numbers, st.integers(0, 45))
def test_among_equals_the_first_are_kept(values: list[float], keep: int) -> None:
    scores = torch.tensor(values).abs()
    order = sorted(range(len(values)), key=lambda index: (-float(scores[index]), index))
    assert largest(scores, keep=keep).nonzero().flatten().tolist() == sorted(order[:keep])
    assert torch.equal(largest_of_rows(scores[None], keep=keep)[0], largest(scores, keep=keep))


@pytest.mark.parametrize("scope", ["Global", "Layer"])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.9, 1.0])
def test_a_scope_says_where_the_sparsity_holds(scope: Scope, sparsity: float) -> None:
    weights = {"small": torch.randn(7, 9) / 100, "large": torch.randn(11, 5)}
    masks = magnitude.masks(weights, sparsity=sparsity, scope=scope)
    assert abs(sparsity_of(masks) - sparsity) < 0.02
    for name, mask in masks.items():
        assert mask.shape == weights[name].shape
        if scope == "Layer":
            assert abs(int((~mask).sum()) - sparsity * mask.numel()) <= 0.5
    if scope == "Global" and sparsity == 0.3:
        assert int(masks["small"].sum()) < int(masks["large"].sum())


def test_a_threshold_drops_what_is_not_above_it() -> None:
    weight = torch.tensor([-0.5, 0.5, 0.50001, -0.6, 0.0])
    assert threshold.mask(weight, threshold=0.5).tolist() == [False, False, True, True, False]


def test_a_gradient_scores_what_the_loss_would_change_by() -> None:
    weight, other = torch.tensor([[1.0, -2.0, 3.0]], requires_grad=True), torch.zeros(2, 2, requires_grad=True)
    batches = torch.tensor([[1.0, 1.0, 0.0], [-3.0, 1.0, 0.0]])
    found = gradient.scores({"w": weight, "unused": other}, ((weight * batch).sum() for batch in batches))
    assert found["w"].tolist() == [[2.0, 2.0, 0.0]]
    assert not found["unused"].any() and weight.grad is None


def test_wanda_weighs_a_linear_layer_by_the_norms_of_its_inputs() -> None:
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]))
    inputs = wanda.InputNorms({"fc": layer})
    x = torch.tensor([[[3.0, 0.0, 1.0], [4.0, 1.0, 0.0]]])
    with inputs.gathering():
        layer(x)
        layer(x[0, :1])
    layer(100 * x)  # not gathered
    assert inputs.norms("fc")[0].tolist() == pytest.approx([34**0.5, 1.0, 2**0.5])
    assert wanda.mask(layer.weight, inputs.norms("fc"), sparsity=2 / 3).tolist() == [[True, False, False], [True, False, False]]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.Conv2d(4, 6, (1, 3), padding="same", padding_mode="circular", dilation=2),
        nn.Conv2d(4, 6, 3, groups=2, padding="valid"),
    ],
    ids=["strided", "circular", "grouped"],
)
def test_wanda_sees_a_convolution_as_if_it_were_unfolded(layer: nn.Conv2d) -> None:
    x = torch.randn(3, 4, 8, 8)
    inputs = wanda.InputNorms({"conv": layer})
    with inputs.gathering():
        layer(x[:2])
        layer(x[2])
    found = wanda.scores(layer.weight, inputs.norms("conv"))
    # The same from a layer that has a single weight of 1: its output is what this weight meets.
    for n, c, i, j in ((0, 0, 0, 0), (5, 1, 0, 2), (3, 1, layer.kernel_size[0] - 1, 1)):
        weight = torch.zeros_like(layer.weight)
        weight[n, c, i, j] = 1
        met = layer._conv_forward(x, weight, None)[:, n].norm()
        assert float(found[n, c, i, j]) == pytest.approx(float((layer.weight[n, c, i, j].abs() * met).detach()), rel=1e-4)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 6), st.sampled_from([4, 16]), fractions, st.integers(0, 99))
def test_blocks_are_kept_or_dropped_whole(outputs: int, inputs: int, height: int, sparsity: float, seed: int) -> None:
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))
    mask = blocks.mask(weight, height=height, sparsity=sparsity)
    kept = [part.all(0) for part in mask.split(height)]
    assert all(torch.equal(part.any(0), whole) for part, whole in zip(mask.split(height), kept, strict=True))
    dropped = sum(int((~whole).sum()) for whole in kept)
    assert abs(dropped - sparsity * len(kept) * inputs) < 1


def test_a_smaller_last_block_is_compared_by_the_size_of_its_weights() -> None:
    weight = torch.ones(5, 1)
    weight[4] = 1.5
    assert blocks.mask(weight, height=4, sparsity=0.5).flatten().tolist() == [False] * 4 + [True]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(1, 9), st.sampled_from([1, 3]), st.sampled_from([(2, 4), (1, 4), (4, 8), (3, 3)]))
def test_each_group_of_a_row_keeps_its_largest(outputs: int, channels: int, kernel: int, pattern: tuple[int, int]) -> None:
    (n, m), weight = pattern, torch.randn(outputs, channels, kernel, kernel)
    mask = n_of_m.mask(weight, n=n, m=m)
    for row, kept in zip(rows_of(weight).abs(), rows_of(mask), strict=True):
        for values, chosen in zip(row.split(m), kept.split(m), strict=True):
            assert int(chosen.sum()) == min(n, len(values))
            assert float(values[chosen].min()) >= float(torch.cat([values[~chosen], torch.zeros(1)]).max())


def test_scores_of_another_kind_decide_which_are_kept() -> None:
    weight, scores = torch.tensor([[4.0, 3.0, 2.0, 1.0]]), torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    assert n_of_m.mask(weight, scores=scores).tolist() == [[False, False, True, True]]
    assert blocks.mask(weight, height=4, sparsity=0.75, scores=scores).tolist() == [[False, False, False, True]]


def test_what_makes_no_mask_is_refused() -> None:
    with pytest.raises(CompressionError, match=r"sparsity 1\.5 must be"):
        magnitude.mask(torch.ones(3), sparsity=1.5)
    with pytest.raises(CompressionError, match="sparsity nan"):
        magnitude.mask(torch.ones(3), sparsity=float("nan"))
    with pytest.raises(CompressionError, match="NaN"):
        magnitude.mask(torch.tensor([1.0, float("nan")]), sparsity=0.5)
    with pytest.raises(CompressionError, match="threshold -1"):
        threshold.mask(torch.ones(3), threshold=-1)
    with pytest.raises(CompressionError, match="5:4"):
        n_of_m.mask(torch.ones(1, 4), n=5)
    with pytest.raises(CompressionError, match="height 0"):
        blocks.mask(torch.ones(1, 4), height=0, sparsity=0.5)
    with pytest.raises(CompressionError, match="at least one batch"):
        gradient.scores({"w": torch.ones(1, requires_grad=True)}, [])
    with pytest.raises(CompressionError, match="BatchNorm2d has no rows"):
        wanda.InputNorms({"bn": conv_net()[1]})
    with pytest.raises(CompressionError, match="no calibration batch"):
        wanda.InputNorms({"fc": dense_net()[0]}).norms("fc")
