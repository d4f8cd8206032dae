"""The predicted increase of the loss: by hand on one layer, and its order on a trained model."""

import pytest
import torch
from torch import nn

from modelmill.compress.errors import CompressionError
from modelmill.compress.qat import FakeActivations
from modelmill.compress.search import sensitivity
from modelmill.compress.search.table import tabulate
from tests.compression.methods.taught import Task, blobs, mlp


class Squares(Task):
    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.mse_loss(outputs, targets)


class One(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.fc(x)
        return y


def problem() -> tuple[One, torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    return One().eval(), torch.randn(20, 6), torch.randn(20, 3)


def gradient(module: One, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Of the weight, by hand: d/dW mean((xW' + b - y)^2)."""
    with torch.no_grad():
        found: torch.Tensor = 2 * (module.fc(x) - y).t() @ x / y.numel()
    return found


def test_the_fisher_information_is_that_of_gradients_by_hand() -> None:
    module, x, y = problem()
    found = sensitivity.measure(module, ["fc.weight"], [(x, y)], Squares())
    chunks = list(zip(x.split(sensitivity.CHUNK_ROWS), y.split(sensitivity.CHUNK_ROWS), strict=True))
    wanted = torch.stack([len(a) * gradient(module, a, b).square() for a, b in chunks]).mean(dim=0)
    torch.testing.assert_close(found.fisher["fc.weight"], wanted)
    change = torch.full((3, 6), 0.5)
    assert found.increase("fc.weight", change) == pytest.approx(0.5 * 0.25 * float(wanted.sum()))


def test_rounded_inputs_cost_what_the_rows_own_gradients_say() -> None:
    module, x, y = problem()
    found = sensitivity.measure(module, ["fc.weight"], [(x, y)], Squares())
    with torch.no_grad():
        own = 2 * (module.fc(x) - y) @ module.fc.weight / y.shape[1]
        change = FakeActivations(None)(module.fc, (x,))[0] - x
    assert found.activations["fc.weight"] == pytest.approx(0.5 * float((own * change).square().sum()) / len(x), rel=1e-4)


def test_the_module_is_left_as_it_was() -> None:
    module, x, y = problem()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    sensitivity.measure(module, ["fc.weight"], [(x, y)], Squares())
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert not module.fc._forward_pre_hooks
    assert not module.fc.weight.requires_grad
    assert module.fc.weight.grad is None


def test_fewer_bits_are_predicted_to_cost_more() -> None:
    material = blobs()
    table = tabulate(mlp(hidden=64).eval(), ["3.weight"], material.calibration(rows=64), Task())
    own = {kind: entry.increase for kind, entry in table["3.weight"].items()}
    assert own["dense"] == 0 < own["int8"] < own["nf4"] < own["kmeans2"]
    assert own["blocks50-int8"] < own["blocks70-int8"]


def test_gradients_that_are_not_finite_are_refused() -> None:
    module, x, y = problem()
    with pytest.raises(CompressionError, match=r"gradients of 'fc.weight' are not finite"):
        sensitivity.measure(module, ["fc.weight"], [(x * float("inf"), y)], Squares())


def test_no_rows_are_refused() -> None:
    with pytest.raises(CompressionError, match="no rows"):
        sensitivity.measure(problem()[0], ["fc.weight"], [], Squares())
