"""Batch norms folded into the convolutions before them: w' = w * f, b' = (b - mean) * f + shift, f = scale / sqrt(var + eps).

Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 3.2.
"""

from collections.abc import Mapping

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from modelmill.compress.modules import CompressedConv2d


def fold(module: nn.Module, found: Mapping[str, str]) -> int:
    """`found`: path of a convolution -> path of the batch norm after it."""
    for one, two in found.items():
        layer, norm = module.get_submodule(one), module.get_submodule(two)
        assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)
        assert norm.running_mean is not None and norm.running_var is not None
        statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
        if isinstance(layer, CompressedConv2d):
            _fold_compressed(layer, norm)
        else:
            assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
            layer.weight, layer.bias = fuse_conv_bn_weights(layer.weight, layer.bias, *statistics)
        module.set_submodule(two, nn.Identity())
    return len(found)


def _fold_compressed(layer: CompressedConv2d, norm: nn.modules.batchnorm._BatchNorm) -> None:
    """Into the scales of the codes, which stay as they are."""
    assert norm.running_mean is not None and norm.running_var is not None
    factor = (norm.running_var + norm.eps).rsqrt() * (1.0 if norm.weight is None else norm.weight)
    before = -norm.running_mean if layer.bias is None else layer.bias - norm.running_mean
    bias = before * factor + (0.0 if norm.bias is None else norm.bias)
    layer.weight.rescale(factor)
    layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
