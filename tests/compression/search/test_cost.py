"""The table of costs: measured, so only what must hold on any machine."""

import torch
from torch import nn

from modelmill.compress.search.cost import costs, look, stored_bytes
from modelmill.compress.search.kinds import kinds_of
from modelmill.compress.weights import Weight


class Chain(nn.Module):
    """Two equal layers, the second called twice, and one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.idle = (nn.Linear(64, 64) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.second(self.second(self.first(x)))
        return y


def encoded(module: nn.Module) -> dict[str, dict[str, Weight]]:
    weights = {name: tensor.detach() for name, tensor in module.named_parameters() if tensor.dim() == 2}
    return {
        name: {kind.name: kind.encode(weight, name=name) for kind in kinds_of(tuple(weight.shape))}
        for name, weight in weights.items()
    }


def test_equal_layers_are_measured_once_and_charged_for_each_call() -> None:
    module = Chain().eval()
    found = costs(module, encoded(module), torch.randn(1, 64))
    for kind, cost in found["first.weight"].items():
        assert cost.seconds > 0
        assert found["second.weight"][kind].seconds == 2 * cost.seconds
        assert found["idle.weight"][kind].seconds == 0


def test_bytes_are_those_of_the_stored_tensors() -> None:
    module = Chain().eval()
    found = costs(module, encoded(module), torch.randn(1, 64))["first.weight"]
    assert found["dense"].bytes == 4 * 64 * 64
    assert found["int8"].bytes == 64 * 64 + 4 * 64
    assert found["nf4"].bytes == 64 * 64 // 2 + 4 * 64 * 2 + 16
    assert found["kmeans2"].bytes < found["int4"].bytes < found["nf4"].bytes < found["int8"].bytes


def test_measuring_leaves_weights_and_module_as_they_were() -> None:
    module = Chain().eval()
    weights = encoded(module)
    before = stored_bytes(weights["first.weight"]["int8"])
    costs(module, weights, torch.randn(1, 64))
    assert stored_bytes(weights["first.weight"]["int8"]) == before
    assert type(module.first) is nn.Linear
    assert not module.first._forward_pre_hooks


def test_the_input_of_a_layer_is_that_of_its_first_call() -> None:
    module, row = Chain().eval(), torch.randn(1, 64)
    seen = look(module, {"first": module.first, "second": module.second, "idle": module.idle}, row)
    assert torch.equal(seen["first"].example, row)
    assert seen["second"].calls == 2
    assert "idle" not in seen


def test_small_and_narrow_weights_get_no_blocks_and_groups_only_where_they_fit() -> None:
    small, large = ({kind.name for kind in kinds_of(shape)} for shape in ((8, 3, 3, 3), (64, 64)))
    assert small == {"dense", "int8", "kmeans4", "int4", "kmeans2"}
    assert large - small == {"nf4", "blocks50-int8", "blocks70-int8"}
