"""What calibration sees of a layer's inputs, and the scales it chooses."""

import math

import pytest
import torch
from torch import nn

from modelmill.compress.calibrate import Observation, activation_scale, observe
from modelmill.compress.errors import CompressionError
from modelmill.compress.grids.clipping import MSE, MinMax, Percentile
from tests.unit.compress.models import conv_net, dense_net


def seen(*parts: torch.Tensor) -> Observation:
    made = Observation()
    for part in parts:
        made.add(part, channels=-1)
    return made


def test_a_linear_layer_is_seen_with_all_that_comes_in() -> None:
    net, batches = dense_net(), [torch.randn(7, 64), torch.randn(5, 64) * 9]
    found = observe(net, ["0.weight"], [(batch, None) for batch in batches])["0.weight"]
    whole = torch.cat(batches)
    assert found.low == float(whole.min())
    assert found.high == float(whole.max())
    assert found.squared is not None
    assert torch.allclose(found.squared, whole.double().square().sum(0))
    assert float(found.histogram.sum()) == whole.numel()


def test_a_convolution_is_seen_channel_by_channel_over_all_pixels() -> None:
    net, x = conv_net().train(), torch.randn(4, 3, 12, 12)
    found = observe(net, ["0.weight", "7.weight"], [x])
    squared = found["0.weight"].squared
    assert squared is not None
    assert torch.allclose(squared, x.double().square().sum(dim=(0, 2, 3)))
    assert found["7.weight"].low >= -10
    assert net.training
    assert int(net.get_buffer("1.num_batches_tracked")) == 0  # Running statistics are as they were.
    assert not net[0]._forward_pre_hooks


def test_rows_of_tokens_count_each_by_itself() -> None:
    x = torch.randn(2, 5, 64)
    found = observe(dense_net(), ["0.weight"], [x])["0.weight"]
    assert found.squared is not None
    assert torch.allclose(found.squared, x.double().square().sum(dim=(0, 1)))


def test_a_histogram_that_grew_is_the_histogram_of_everything() -> None:
    parts = [torch.rand(1000) * reach for reach in (0.0, 1.0, 5.0, 0.3, 100.0)]
    found, whole = seen(*parts), torch.cat(parts)
    assert found.reach >= 100 * 0.99
    expected = torch.histc(whole, bins=2048, min=0, max=found.reach).double()
    # What lies on an edge to float32 may have gone either way.
    assert float((found.histogram.cumsum(0) - expected.cumsum(0)).abs().max()) <= 5
    assert float(found.histogram.sum()) == len(whole)


def test_the_largest_input_is_not_clipped_by_min_max() -> None:
    assert activation_scale(seen(torch.tensor([0.1, -25.4, 3.0])), MinMax()) == pytest.approx(0.2)
    assert activation_scale(seen(torch.tensor([0.7, -0.2])), MinMax(), bits=4) == pytest.approx(0.1)


def test_a_percentile_leaves_out_what_is_rare() -> None:
    x = torch.cat([torch.linspace(-1, 1, 9991), torch.full((9,), 50.0)])
    found = seen(x)
    assert activation_scale(found, Percentile(percentile=99.9)) * 127 == pytest.approx(1, abs=2 * 50 / 2048)
    assert activation_scale(found, Percentile(percentile=100)) * 127 == pytest.approx(50)


def test_no_other_range_has_a_clearly_smaller_error() -> None:
    x = torch.randn(20000, generator=torch.Generator().manual_seed(0)) ** 3

    def error(scale: float, most: int) -> float:
        return float(((x / scale).round().clamp(-most, most) * scale - x).square().mean())

    found = seen(x)
    for bits in (4, 8):
        most = 2 ** (bits - 1) - 1
        chosen = error(activation_scale(found, MSE(), bits=bits), most)
        assert chosen <= 1.03 * min(error(found.largest() * share / 100 / most, most) for share in range(1, 101))
    assert activation_scale(found, MSE(), bits=4) < activation_scale(found, MinMax(), bits=4)


def test_inputs_of_zeros_have_scale_one() -> None:
    for method in (MinMax(), Percentile(), MSE()):
        assert activation_scale(seen(torch.zeros(3)), method) == 1.0


def test_what_cannot_be_calibrated_is_refused_by_name() -> None:
    net = dense_net()
    with pytest.raises(CompressionError, match=r"tensor 'none\.weight': the model has no layer of this name"):
        observe(net, ["none.weight"], [torch.zeros(1, 64)])
    with pytest.raises(CompressionError, match=r"tensor '0\.weight': its layer got no input"):
        observe(net, ["0.weight"], [])
    with pytest.raises(CompressionError, match=r"tensor '0\.weight': inputs of its layer are not finite"):
        observe(net, ["0.weight"], [torch.full((1, 64), math.nan)])
    assert all(not layer._forward_pre_hooks for layer in net.modules())
    with pytest.raises(CompressionError, match=r"bits 9"):
        activation_scale(Observation(), MinMax(), bits=9)
    assert isinstance(net, nn.Sequential)
