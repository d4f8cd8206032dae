"""Edits of structure: what they make, what JSON of them is refused, and that no number of a file is trusted."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from modelmill.compress.errors import BadArtifact
from modelmill.compress.structure import Edit, Factor, Resize, SetAttribute, apply_edits, from_json, to_json

from .models import Shared, conv_net, dense_net

EDITS: tuple[Edit, ...] = (
    Resize(path="0", outputs=8),
    Resize(path="1", outputs=8),
    Resize(path="3", inputs=8, outputs=16),
    Resize(path="4", inputs=16, outputs=16),
    Resize(path="7", inputs=16),
    Factor(path="3", rank=4),
)


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.flag = True
        self.norm = nn.LayerNorm(16)
        self.query = nn.Linear(16, 16, bias=False)


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_module_gets_the_sizes_of_the_edits_and_still_computes(device: str) -> None:
    module = apply_edits(conv_net().to(device), EDITS)
    assert module(torch.randn(2, 3, 16, 16, device=device)).shape == (2, 10)
    assert _shapes(module)["3.0.weight"] == (4, 8, 3, 3) and _shapes(module)["3.1.weight"] == (16, 4, 1, 1)
    assert _shapes(module)["4.weight"] == (16, 1, 3, 3) and _shapes(module)["1.running_var"] == (8,)


def test_the_settings_of_a_layer_stay() -> None:
    module = apply_edits(conv_net().double().eval(), EDITS)
    pair = module.get_submodule("3")
    assert isinstance(pair, nn.Sequential) and isinstance(pair[0], nn.Conv2d)
    assert pair[0].stride == (2, 2) and pair[0].padding == "valid" and pair[0].bias is None and pair[1].bias is not None
    assert not pair.training and {tensor.dtype for tensor in module.parameters()} == {torch.float64}
    assert module.get_submodule("0").bias is None


def test_edits_draw_no_random_numbers() -> None:
    module, state = conv_net(), torch.get_rng_state()
    apply_edits(module, EDITS)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_edits_on_two_fresh_modules_make_the_same() -> None:
    one, two = (apply_edits(conv_net(seed=seed), EDITS) for seed in (0, 1))
    assert _shapes(one) == _shapes(two)


def test_a_resize_can_be_repeated_and_a_factor_cannot() -> None:
    module = apply_edits(apply_edits(conv_net(), EDITS[:5]), EDITS[:5])
    apply_edits(module, EDITS[5:])
    with pytest.raises(BadArtifact, match="Sequential with|Sequential cannot be factored"):
        apply_edits(module, EDITS[5:])


def test_a_whole_number_of_the_module_can_become_smaller() -> None:
    module = Attending()
    apply_edits(module, [SetAttribute(path="", name="heads", value=2), Resize(path="norm", outputs=8)])
    assert module.heads == 2 and module.norm.normalized_shape == (8,)


WRONG: list[tuple[Edit, str]] = [
    (Resize(path="query", outputs=17), "outputs 17 must be from 1 to 16"),
    (Resize(path="query", outputs=0), "outputs 0 must be"),
    (Resize(path="query", inputs=-1), "inputs -1 must be"),
    (Resize(path="norm", inputs=8), "no inputs of its own"),
    (Resize(path="nobody", outputs=1), "no such layer"),
    (Resize(path="norm.weight", outputs=1), "no such layer"),
    (Resize(path="", outputs=1), "the model itself"),
    (Factor(path="query", rank=17), "rank 17"),
    (Factor(path="norm", rank=1), "LayerNorm cannot be factored"),
    (SetAttribute(path="", name="heads", value=5), "heads 5 must be from 1 to 4"),
    (SetAttribute(path="", name="heads", value=0), "heads 0 must be"),
    (SetAttribute(path="", name="flag", value=1), "no whole number 'flag'"),
    (SetAttribute(path="", name="query", value=1), "no whole number"),
    (SetAttribute(path="", name="_version", value=1), "no whole number"),
    (SetAttribute(path="", name="nothing", value=1), "no whole number"),
]


@pytest.mark.parametrize(("edit", "message"), WRONG, ids=lambda value: str(value)[:60])
def test_an_edit_that_does_not_fit_is_refused(edit: Edit, message: str) -> None:
    with pytest.raises(BadArtifact, match=message):
        apply_edits(Attending(), [edit])


def test_convolutions_keep_their_groups() -> None:
    with pytest.raises(BadArtifact, match="depthwise convolution must be the same"):
        apply_edits(conv_net(), [Resize(path="4", outputs=8)])
    with pytest.raises(BadArtifact, match="multiples of the 2 groups"):
        apply_edits(nn.Sequential(nn.Conv2d(4, 8, 1, groups=2)), [Resize(path="0", inputs=3)])


def test_a_weight_or_layer_in_two_places_is_refused() -> None:
    with pytest.raises(BadArtifact, match="share its weight"):
        apply_edits(Shared(), [Resize(path="one", outputs=8)])
    layer = nn.Linear(4, 4)
    with pytest.raises(BadArtifact, match="several places"):
        apply_edits(nn.Sequential(layer, layer), [Resize(path="0", outputs=2)])


sizes = st.none() | st.integers()
edits = st.one_of(
    st.builds(Resize, path=st.text(), inputs=sizes, outputs=st.integers()),
    st.builds(Factor, path=st.text(), rank=st.integers()),
    st.builds(SetAttribute, path=st.text(), name=st.text(), value=st.integers()),
)


@settings(max_examples=30)
@given(st.lists(edits, max_size=4))
def test_edits_are_the_same_after_json(made: list[Edit]) -> None:
    assert from_json(to_json(made)) == tuple(made)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({}, "edit None is not known"),
        ({"edit": "pickle", "path": "0"}, "edit 'pickle' is not known"),
        ({"edit": ["resize"], "path": "0"}, "is not known"),
        ({"edit": "resize", "path": "0"}, "inputs, outputs or both"),
        ({"edit": "resize", "outputs": 4}, "needs the key 'path'"),
        ({"edit": "resize", "path": "0", "outputs": 4, "groups": 1}, "no key 'groups'"),
        ({"edit": "resize", "path": 0, "outputs": 4}, "path 0 must be text"),
        ({"edit": "resize", "path": "0", "outputs": 4.0}, "must be a whole number"),
        ({"edit": "resize", "path": "0", "outputs": None}, "must be a whole number"),
        ({"edit": "factor", "path": "0", "rank": True}, "must be a whole number"),
        ({"edit": "attribute", "path": "0", "name": "heads"}, "needs the key 'value'"),
    ],
)
def test_json_that_is_no_edit_is_refused(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(BadArtifact, match=message):
        from_json([raw])


@settings(max_examples=40, deadline=None)
@given(st.lists(edits.map(lambda edit: edit) | st.builds(Resize, path=st.sampled_from("024"), outputs=st.integers(-5, 200)), max_size=3))
def test_whatever_a_file_says_sizes_never_grow(made: list[Edit]) -> None:
    module = dense_net().to("meta")
    before = sum(tensor.numel() for tensor in module.state_dict().values())
    try:
        apply_edits(module, made)
    except BadArtifact:
        return
    assert sum(tensor.numel() for tensor in module.state_dict().values()) <= before
