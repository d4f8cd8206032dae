"""torchao's `quantize_`: linear layers only, convolutions stay fp32.

`int8`: weights by channel, activations by row when they come. `int4`: weights only, in groups, the rest in bfloat16.
"""

import functools
import sys

import torch
from torch import nn

from benchmarks.compression.side import Make, serve
from benchmarks.compression.workloads import Call, Inputs, Workload


def int8(module: nn.Module) -> nn.Module:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    quantize_(module, Int8DynamicActivationInt8WeightConfig())
    return module


def int4(module: nn.Module) -> nn.Module:
    """Weight only, groups of 32, with aten's int4 product for CPUs."""
    from torchao.prototype.quantization.int4.inference_workflow import PrototypeInt4WeightOnlyConfig
    from torchao.quantization import quantize_

    module = module.to(torch.bfloat16)
    quantize_(module, PrototypeInt4WeightOnlyConfig(group_size=32))
    return module


def quantized(workload: Workload, *, mode: str) -> Make:
    kind, _, compiled = mode.partition("-")
    module = {"int8": int8, "int4": int4}[kind](workload.baseline())

    def make(inputs: Inputs) -> Call:
        made: Call = torch.compile(module, dynamic=False) if compiled else module
        return made

    return make


if __name__ == "__main__":
    serve(functools.partial(quantized, mode=sys.argv[2]), workload=sys.argv[1])
