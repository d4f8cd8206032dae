"""Channels and heads that are removed: the pruned module computes what the module with zeros does, and edits tell its shapes."""

import copy
from typing import Any

import pytest
import torch
import torch_pruning
from torch import nn
from torch.nn import functional

from benchmarks.serving.models import encoder
from examples.cifar10.recipe import ResNet
from modelmill.compress.errors import CompressionError
from modelmill.compress.graph.fold import fold
from modelmill.compress.graph.pairs import pairs
from modelmill.compress.prune.heads import prune_head_dimensions, prune_heads
from modelmill.compress.prune.structured import Pruned, prune_channels
from modelmill.compress.structure import SetAttribute, apply_edits, from_json, to_json
from tests.unit.compress.models import conv_net

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Joined(nn.Module):
    """Channels that are laid behind others, and then read as one place each, or (flat) as four."""

    def __init__(self, *, flat: bool = False) -> None:
        super().__init__()
        self.flat = flat
        self.left, self.right = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 16, 1)
        self.fc = nn.Linear(24 * 4, 5) if flat else nn.Conv2d(24, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        both = functional.adaptive_avg_pool2d(torch.cat([self.left(x).relu(), self.right(x).relu()], 1), 2)
        scores: torch.Tensor = self.fc(both.flatten(1) if self.flat else both)
        return scores


def _flattened() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 5)).eval()


class Attending(nn.Module):
    def __init__(self, *, fixed: bool = False) -> None:
        super().__init__()
        self.num_heads = 4
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(32, 32) for _ in range(4))
        self.scale = 8**-0.5 if fixed else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = functional.scaled_dot_product_attention(next(parts), next(parts), next(parts), scale=self.scale)
        result: torch.Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return result


def _reload(pruned: Pruned, fresh: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
    """What a fresh module of the recipe computes after the edits, from JSON, with the pruned module's weights."""
    apply_edits(fresh, from_json(to_json(pruned.edits)))
    fresh.load_state_dict(pruned.module.state_dict())
    with torch.no_grad():
        result: torch.Tensor = fresh.eval()(*inputs)
        assert torch.equal(result, pruned.module.eval()(*inputs))
    return result


def _settled(module: nn.Module) -> nn.Module:
    """With batch norms that have seen something, so that each channel has its own scale."""
    torch.manual_seed(0)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias)
            nn.init.uniform_(layer.running_var, 0.5, 2)  # type: ignore[arg-type]
    return module.eval()


def test_a_residual_network_gets_the_multiplications_asked_for() -> None:
    module = _settled(ResNet(1))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    pruned = prune_channels(module, IMAGES, macs=1.6, round_to=8)
    assert pruned.macs_before / pruned.macs_after >= 1.6
    counted = [torch_pruning.utils.count_ops_and_params(made, IMAGES)[0] for made in (module, pruned.module)]
    assert counted[0] / counted[1] == pytest.approx(pruned.macs_before / pruned.macs_after, rel=0.02)
    assert all((left % 8 == 0 and left < had) or left == had for had, left in pruned.channels.values())
    assert {path.rpartition(".")[2] for path in pruned.channels} == {"conv1"}
    # A shortcut that appends zeros: the graph takes the first channels for those of the next layer.
    assert "computes something else" in pruned.refused["conv1"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    _reload(pruned, ResNet(1), IMAGES)


def test_channels_that_a_narrower_layer_does_not_have_are_refused() -> None:
    module = _settled(ResNet(1))
    fold(module, pairs(copy.deepcopy(module), inputs=1).found)
    pruned = prune_channels(module, IMAGES, macs=1.3, round_to=16)  # tries channel 60 of the last layer's 64
    assert any("cannot compute without some of its channels" in reason for reason in pruned.refused.values())


def test_channels_of_no_effect_go_first_and_change_nothing() -> None:
    module = _settled(conv_net())
    dead = torch.tensor([1, 2, 3, 7, 8, 9, 12, 15])
    with torch.no_grad():
        for tensor in (
            module.get_parameter("0.weight"),
            module.get_parameter("1.weight"),
            module.get_parameter("1.bias"),
            module.get_buffer("1.running_mean"),
        ):
            tensor[dead] = 0
        module.get_parameter("3.weight")[:, dead] = 0
    pruned = prune_channels(module, IMAGES, ratio=0.5, keep=["3", "4"])
    assert pruned.channels == {"0": (16, 8)}
    with torch.no_grad():
        assert torch.allclose(_reload(pruned, conv_net(), IMAGES), module(IMAGES), atol=1e-5)


def test_a_depthwise_convolution_goes_with_its_channels() -> None:
    pruned = prune_channels(_settled(conv_net()), IMAGES, ratio=0.5, keep=["0"])
    assert pruned.channels == {"4": (24, 16)}
    layer = pruned.module.get_submodule("4")
    assert isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels == 16
    _reload(pruned, conv_net(), IMAGES)


def test_channels_that_are_laid_end_to_end_are_found_again() -> None:
    torch.manual_seed(0)
    module = Joined().eval()
    with torch.no_grad():
        for layer, first, half in ((module.left, 0, 4), (module.right, 8, 8)):
            layer.weight[:half] *= 0.01
            module.fc.weight[:, first : first + half] = 0
    pruned = prune_channels(module, IMAGES, ratio=0.5, round_to=4)
    assert pruned.channels == {"left": (8, 4), "right": (16, 8)}
    with torch.no_grad():
        assert torch.allclose(_reload(pruned, Joined(), IMAGES), module(IMAGES), atol=1e-5)


def test_channels_that_are_flattened_are_found_again() -> None:
    torch.manual_seed(0)
    module = _flattened()
    with torch.no_grad():
        module.get_parameter("4.weight")[:, 12:44] = 0
        module.get_parameter("0.weight")[3:11] *= 0.1
    pruned = prune_channels(module, IMAGES, ratio=0.5)
    assert pruned.channels == {"0": (16, 8)}
    with torch.no_grad():
        assert torch.allclose(_reload(pruned, _flattened(), IMAGES), module(IMAGES), atol=1e-5)


def test_channels_that_the_graph_mistakes_are_refused() -> None:
    with pytest.raises(CompressionError, match="cannot compute without some of its channels"):
        prune_channels(Joined(flat=True), IMAGES, ratio=0.5, round_to=4)


def test_by_taylor_the_channel_that_the_loss_needs_stays() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    with torch.no_grad():
        module.get_parameter("0.bias").fill_(5.0)
        module.get_parameter("0.weight")[2] *= 0.01  # small, and the only one that is read
        module.get_parameter("2.weight").zero_()
        module.get_parameter("2.weight")[:, 2] = 1.0
    x = torch.randn(16, 4)
    losses = [lambda: module(x).square().mean()] * 2
    pruned = prune_channels(module, x, ratio=0.75, round_to=1, importance="Taylor", losses=losses)
    assert pruned.channels == {"0": (8, 2)}
    with torch.no_grad():
        assert torch.allclose(pruned.module(x), module(x), atol=1e-5)


def test_what_cannot_be_pruned_is_refused_with_the_reason() -> None:
    module = conv_net()
    with pytest.raises(CompressionError, match=r"macs 50 cannot be reached: without more than \d"):
        prune_channels(module, IMAGES, macs=50)
    with pytest.raises(CompressionError, match=r"no layer can lose channels: .*outputs of the model"):
        prune_channels(nn.Sequential(nn.Linear(8, 8)), torch.zeros(1, 8), ratio=0.5)
    for wrong, message in (
        ({}, "a ratio or macs"),
        ({"ratio": 0.5, "macs": 2.0}, "not both"),
        ({"ratio": 1.0}, r"ratio 1\.0"),
        ({"macs": 0.9}, r"macs 0\.9"),
        ({"ratio": 0.5, "round_to": 0}, "round_to 0"),
        ({"ratio": 0.5, "keep": ["nobody"]}, "keep 'nobody'"),
        ({"ratio": 0.5, "importance": "Taylor"}, "at least one batch"),
        ({"ratio": 0.5, "importance": "Luck"}, "'Luck' is not known"),
    ):
        with pytest.raises(CompressionError, match=message):
            prune_channels(module, IMAGES, **wrong)


@pytest.mark.parametrize("fixed", [False, True], ids=["by size", "fixed"])
def test_heads_without_values_go_first_and_change_nothing(fixed: bool) -> None:
    torch.manual_seed(0)
    module, x = Attending(fixed=fixed).eval(), torch.randn(2, 5, 32)
    with torch.no_grad():
        module.v_proj.weight[8:24] = 0
        module.v_proj.bias[8:24] = 0
    pruned = prune_heads(module, x, keep=2)
    assert pruned.channels == {"": (4, 2)} and SetAttribute(path="", name="num_heads", value=2) in pruned.edits
    with torch.no_grad():
        assert torch.allclose(_reload(pruned, Attending(fixed=fixed), x), module(x), atol=1e-5)


@pytest.mark.parametrize("fixed", [False, True], ids=["by size", "fixed"])
def test_heads_can_become_narrower_whatever_attention_divides_by(fixed: bool) -> None:
    torch.manual_seed(0)
    module, x = Attending(fixed=fixed).eval(), torch.randn(2, 5, 32)
    with torch.no_grad():
        for layer in (module.q_proj, module.k_proj, module.v_proj):
            layer.weight.view(4, 8, 32)[:, 1:6] = 0
            layer.bias.view(4, 8)[:, 1:6] = 0
    pruned = prune_head_dimensions(module, x, heads=4, keep=3)
    assert pruned.channels == {"": (8, 3)} and pruned.module.num_heads == 4
    with torch.no_grad():
        assert torch.allclose(_reload(pruned, Attending(fixed=fixed), x), module(x), atol=1e-5)


def test_a_number_of_heads_in_the_code_is_refused_and_their_dimensions_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WIDTH", 24), ("HIDDEN", 32), ("WORDS", 50), ("LAYERS", 2)):
        monkeypatch.setattr(encoder, name, value)
    torch.manual_seed(0)
    module, ids = encoder.Encoder(), torch.randint(0, 50, (2, 6))
    example: Any = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with pytest.raises(CompressionError, match=r"no attribute of heads, num_heads.*dimensions of its heads instead"):
        prune_heads(module, example, keep=6)
    narrow = prune_head_dimensions(module, example, heads=12, keep=1)
    assert narrow.channels == {"layers.0": (2, 1), "layers.1": (2, 1)}
    both = prune_channels(narrow.module, example, ratio=0.5)
    assert both.channels == {"layers.0.up": (32, 16), "layers.1.up": (32, 16)}
    assert "LayerNorm, which computes over all" in str(both.refused)
    fresh = apply_edits(copy.deepcopy(module), [*narrow.edits, *both.edits])
    fresh.load_state_dict(both.module.state_dict())
