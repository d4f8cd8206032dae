"""A layer checks its weight once: what it kept must never be taken for a weight that has become another."""

import copy
import gc

import pytest
import torch

from modelmill.compress.codecs.coded import CodedWeight
from modelmill.compress.errors import CompressionError
from modelmill.compress.weight import Geometry
from modelmill.kernels import coded_linear
from modelmill.kernels.conv import Geometry as Sizes
from modelmill.kernels.conv import convolve
from modelmill.kernels.linear import multiply
from modelmill.kernels.weight import Coded, Ready
from tests.compression.kernels.made import Made, weight

OUTPUTS, INPUTS = 20, 64
X = torch.randn(3, INPUTS, generator=torch.Generator().manual_seed(1))


def layer(seed: int = 0) -> CodedWeight:
    return coded_weight(weight(4, OUTPUTS, INPUTS, table="steps", seed=seed), (OUTPUTS, INPUTS))


def coded_weight(made: Made, shape: tuple[int, ...]) -> CodedWeight:
    return CodedWeight(
        grid="Uniform", bits=4, shape=shape, codes=made.codes, scale=made.scale, levels=made.levels, zero=made.zero, facts={}
    )


def unkept(own: CodedWeight, bias: torch.Tensor | None = None) -> torch.Tensor:
    return coded_linear(X, own.codes, own.scale, own.levels, own.zero, bias, bits=4, inputs=INPUTS, outputs=OUTPUTS)


def test_a_layer_answers_the_same_again() -> None:
    own = layer()
    assert torch.equal(own.linear(X, None), unkept(own))
    assert torch.equal(own.linear(X, None), unkept(own))


def test_each_bias_counts() -> None:
    own = layer()
    for bias in (torch.zeros(OUTPUTS), torch.ones(OUTPUTS), None):
        assert torch.equal(own.linear(X, bias), unkept(own, bias))


@pytest.mark.parametrize("part", ["codes", "scale"])
def test_a_tensor_that_is_exchanged_counts(part: str) -> None:
    own, other = layer(), layer(seed=1)
    before = own.linear(X, None)
    setattr(own, part, getattr(other, part))
    assert torch.equal(own.linear(X, None), unkept(own))
    assert not torch.equal(own.linear(X, None), before)


def test_a_layer_whose_outputs_are_rescaled_gives_more() -> None:
    own = layer()
    before = own.linear(X, None)
    own.rescale(torch.full((OUTPUTS,), 2.0))
    assert torch.allclose(own.linear(X, None), 2 * before)


def test_tensors_that_move_in_memory_are_found_again() -> None:
    own = layer()
    before = own.linear(X, None)
    own.share_memory()
    assert torch.equal(own.linear(X, None), before)


def test_a_copy_does_not_need_its_original() -> None:
    own = layer()
    before = own.linear(X, None)
    other = copy.deepcopy(own)
    with torch.no_grad():
        own.codes.zero_()
    del own
    gc.collect()
    assert torch.equal(other.linear(X, None), before)


def test_what_does_not_fit_is_refused_with_its_shape() -> None:
    own = layer()
    with pytest.raises(CompressionError, match=r"x is \[3, 60\]: the weight takes 64 inputs"):
        own.linear(X[:, :60].contiguous(), None)
    made = weight(4, OUTPUTS, 36)
    ready = Ready(Coded(made.codes, made.scale, None, None, None, 4, OUTPUTS, 36))
    with pytest.raises(CompressionError, match="the weight takes 36 inputs"):
        multiply(X, ready, None)
    with pytest.raises(CompressionError, match="the weight takes 36 inputs a window"):
        convolve(torch.zeros(1, 8, 5, 5), ready, Sizes((3, 3), (1, 1), (1, 1), (1, 1)), None, None, False)


def test_a_convolution_keeps_its_weight_too() -> None:
    own = coded_weight(weight(4, OUTPUTS, 36, table="steps"), (OUTPUTS, 4, 3, 3))
    x = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(2))
    geometry = Geometry(stride=(1, 1), padding=(1, 1), dilation=(1, 1))
    before = own.conv2d(x, None, geometry)
    own.scale = own.scale * 2
    assert torch.allclose(own.conv2d(x, None, geometry), 2 * before)
