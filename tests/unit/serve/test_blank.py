"""Building a module for weights that come from a file."""

import torch
from torch import nn

from modelmill.serve.blank import blank_weights


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.linear = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.register_buffer("features", nn.init.constant_(torch.empty(4), 3.0), persistent=False)
        self.register_buffer("noise", nn.init.normal_(torch.zeros(4), mean=100.0), persistent=False)


def test_no_random_number_is_drawn_for_parameters() -> None:
    with blank_weights():
        torch.manual_seed(0)
        before = torch.get_rng_state()
        nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 4), nn.Conv2d(1, 2, 3))
        assert torch.equal(torch.get_rng_state(), before)


def test_what_no_file_holds_is_as_ever() -> None:
    with blank_weights():
        net = Net()
    assert isinstance(net.features, torch.Tensor) and isinstance(net.noise, torch.Tensor)
    assert net.features.tolist() == [3.0] * 4
    assert (net.noise > 50).all()
    assert net.norm.weight.tolist() == [1.0] * 4


def test_afterwards_everything_is_drawn_again() -> None:
    with blank_weights():
        pass
    assert nn.Linear(64, 64).weight.std() > 0
    torch.manual_seed(0)
    one = nn.Linear(4, 4).weight
    torch.manual_seed(0)
    assert torch.equal(one, nn.Linear(4, 4).weight)
