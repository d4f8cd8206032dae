"""Training with a grid in place: what forward computes, where gradients go, what is left, and that it helps."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize

from modelmill.compress import qat
from modelmill.compress.codes import Codes
from modelmill.compress.errors import CompressionError
from modelmill.compress.grids.binary import Binary
from modelmill.compress.grids.clipping import MSE, Percentile
from modelmill.compress.grids.fixed_point import FixedPoint
from modelmill.compress.grids.grid import Grid
from modelmill.compress.grids.kmeans import KMeans
from modelmill.compress.grids.normal_float import NormalFloat
from modelmill.compress.grids.residue import Residue
from modelmill.compress.grids.steps import Steps
from modelmill.compress.grids.ternary import Ternary
from modelmill.compress.grids.uniform import Uniform
from tests.unit.compress.models import conv_net, dense_net

GRIDS: list[Grid] = [
    Uniform(bits=4),
    Uniform(bits=3, symmetric=False, clipping=MSE(steps=5)),
    FixedPoint(bits=4),
    Residue(modulus=9),
    NormalFloat(granularity="Channel"),
    KMeans(clusters=4),
    KMeans(clusters=4, granularity="Channel", zero_kept=True),
    Steps(steps=3),
    Binary(),
    Ternary(),
]


def weight_of(net: nn.Sequential) -> torch.Tensor:
    """Of the first layer, as it is computed with."""
    weight = net[0].weight
    assert isinstance(weight, torch.Tensor)
    return weight


def gradient(net: nn.Sequential) -> torch.Tensor:
    """Of the floats behind it."""
    found = net.get_parameter("0.parametrizations.weight.original").grad
    assert found is not None
    return found


def task(*, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Sixteen blobs in four classes, which a line cannot part."""
    made = torch.Generator().manual_seed(seed)
    centres = torch.randn(16, 64, generator=torch.Generator().manual_seed(9))
    kind = torch.randint(16, (256,), generator=made)
    return centres[kind] + 1.5 * torch.randn(256, 64, generator=made), kind % 4


def train(net: nn.Module, *, steps: int, lr: float) -> None:
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    for step in range(steps):
        x, y = task(seed=100 + step)
        optimizer.zero_grad()
        functional.cross_entropy(net(x), y).backward()
        optimizer.step()


def loss_on(net: nn.Module, grids: dict[str, Grid]) -> float:
    """Of the net with its weights as the grids store them."""
    net = copy.deepcopy(net).eval()
    weights = {name: grid.encode(net.get_parameter(name), name=name).decode() for name, grid in grids.items()}
    net.load_state_dict(weights, strict=False)
    x, y = task(seed=1)
    with torch.no_grad():
        return float(functional.cross_entropy(net(x), y))


def trained() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 4))
    train(net, steps=60, lr=0.01)
    return net


@pytest.fixture(scope="module")
def dense() -> nn.Module:
    return trained()


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("make", [dense_net, conv_net])
def test_forward_computes_with_what_the_file_would_hold(make: Callable[[], nn.Sequential], grid: Grid) -> None:
    net = make()
    weight = weight_of(net).detach().clone()
    qat.attach(net, {"0.weight": grid})
    assert torch.equal(weight_of(net), grid.encode(weight, name="w").decode()) or isinstance(grid, KMeans)
    assert torch.allclose(weight_of(net), grid.encode(weight, name="w").decode(), atol=float(weight.abs().max()) / 127)


@pytest.mark.parametrize("grid", [grid for grid in GRIDS if not grid.clips and not isinstance(grid, KMeans)], ids=str)
def test_gradients_pass_as_if_nothing_were_rounded(grid: Grid) -> None:
    net = dense_net()
    qat.attach(net, {"0.weight": grid})
    wanted = torch.randn_like(weight_of(net))
    (weight_of(net) * wanted).sum().backward()
    assert torch.equal(gradient(net), wanted)


def test_weights_that_a_grid_cut_off_get_no_gradient() -> None:
    net = nn.Sequential(nn.Linear(100, 1))
    weight = torch.linspace(-1, 1, 100)[None]
    weight_of(net).data.copy_(weight)
    qat.attach(net, {"0.weight": Uniform(bits=4, clipping=Percentile(percentile=80))})
    weight_of(net).sum().backward()
    passed = gradient(net) != 0
    largest = weight_of(net).detach().abs().max()
    step = largest / 7
    assert torch.equal(passed, weight.abs() <= largest + step * 0.501)
    assert 0.8 <= float(passed.float().mean()) < 0.95


def test_shared_values_learn_by_the_mean_of_their_gradients() -> None:
    net = dense_net()
    grid = KMeans(clusters=4, zero_kept=True)
    qat.attach(net, {"0.weight": grid})
    before = weight_of(net).detach().clone()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    (weight_of(net) * torch.arange(64.0)).sum().mul(1e-3).backward()
    optimizer.step()
    after = weight_of(net).detach()
    unit = float(after.abs().max()) / 127
    for value in before.unique():
        mine = before == value
        assert len(after[mine].unique()) == 1
        mean = 1e-3 * torch.arange(64.0).expand_as(before)[mine].mean()
        wanted = 0.0 if value == 0 else float(value - mean)
        assert float(after[mine][0]) == pytest.approx(wanted, abs=unit)
    qat.settle(net, {"0.weight": grid})
    assert torch.allclose(grid.encode(weight_of(net), name="w").decode(), after, rtol=1e-6, atol=0)


def test_settling_leaves_the_module_as_it_was() -> None:
    net, x = dense_net(), torch.randn(3, 64)
    weights, wanted = copy.deepcopy(net.state_dict()), net(x)
    grids: dict[str, Grid] = {"0.weight": Ternary(), "2.weight": Steps(steps=4)}
    qat.attach(net, grids, activations=True, activation_scales={"2.weight": 0.01})
    assert not torch.allclose(net(x), wanted)
    qat.settle(net, grids)
    assert type(net[0]) is nn.Linear
    assert net.state_dict().keys() == weights.keys()
    assert torch.equal(net(x), wanted)


class Halved(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight / 2


def test_another_parametrization_of_the_weight_stays() -> None:
    net = dense_net()
    parametrize.register_parametrization(net[0], "weight", Halved())
    wanted = weight_of(net).detach().clone()
    qat.attach(net, {"0.weight": Ternary()})
    assert len(weight_of(net).abs().unique()) <= 1 + 128
    qat.settle(net, {"0.weight": Ternary()})
    assert torch.equal(weight_of(net), wanted)


def test_slow_grids_are_fitted_now_and_then_and_only_in_training() -> None:
    fits = 0

    class Counted(Steps):
        def encode(self, weight: torch.Tensor, *, name: str) -> Codes:
            nonlocal fits
            fits += 1
            return Steps.encode(self, weight, name=name)

    fake, weight = qat.FakeQuantize(Counted(steps=4), "w", refit=3), torch.randn(4, 8)
    for _ in range(7):
        assert len(fake(weight).unique()) <= 4
    assert fits == 3
    fake.eval()
    for _ in range(4):
        fake(weight + 1)
    assert fits == 3


def test_inputs_are_rounded_as_the_product_does_it() -> None:
    net, x = nn.Sequential(nn.Linear(8, 8)), torch.randn(5, 8, requires_grad=True)
    got: list[torch.Tensor] = []
    qat.attach(net, {"0.weight": Uniform()}, activations=True)
    net[0].register_forward_pre_hook(lambda _, inputs: got.append(inputs[0]))
    net(x)
    scale = x.abs().amax(dim=1, keepdim=True) / 127
    assert torch.allclose(got[0], (x / scale).round() * scale)
    got[0].sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))  # type: ignore[arg-type]


def test_a_chosen_scale_clips_inputs_and_their_gradients() -> None:
    hook, x = qat.FakeActivations(0.01), torch.tensor([[0.004, 0.5, -3.0]], requires_grad=True)
    (seen,) = hook(nn.Linear(3, 1), (x,))
    assert torch.allclose(seen, torch.tensor([[0.0, 0.5, -1.27]]))
    seen.sum().backward()
    assert torch.equal(x.grad, torch.tensor([[1.0, 1.0, 0.0]]))  # type: ignore[arg-type]
    (image,) = qat.FakeActivations(None)(nn.Conv2d(1, 1, 1), (torch.tensor([[[[127.0, 0.4]]], [[[1.27, 0.4]]]]),))
    assert torch.allclose(image.flatten(), torch.tensor([127.0, 0.0, 1.27, 0.4]))


@pytest.mark.parametrize(
    ("grid", "share"), [(Ternary(), 0.7), (Binary(), 0.5), (Steps(steps=3), 0.8), (KMeans(clusters=3), 0.97)], ids=str
)
def test_training_with_the_grid_does_better_than_rounding_afterwards(dense: nn.Module, grid: Grid, share: float) -> None:
    grids: dict[str, Grid] = {f"{layer}.weight": grid for layer in (0, 2, 4)}
    afterwards = loss_on(dense, grids)
    net = copy.deepcopy(dense)
    qat.attach(net, grids, refit=10)
    train(net, steps=60, lr=0.003)
    qat.settle(net, grids)
    assert loss_on(net, grids) < share * afterwards


def test_wrong_names_and_refused_weights_leave_the_module_as_it_was() -> None:
    net = dense_net()
    for name in ("0.nothing", "9.weight", "weight"):
        with pytest.raises(CompressionError, match=f"tensor '{name}': the model has no weight of this name"):
            qat.attach(net, {"0.weight": Ternary(), name: Ternary()}, activations=True)
    with pytest.raises(CompressionError, match=r"tensor '2\.weight': q 2 loses information"):
        qat.attach(net, {"0.weight": Ternary(), "2.weight": Residue(modulus=2, point=8)}, activations=True)
    assert not parametrize.is_parametrized(net)
    assert all(not layer._forward_pre_hooks for layer in net.modules())
    with pytest.raises(CompressionError, match=r"refit 0"):
        qat.attach(net, {"0.weight": Ternary()}, refit=0)
