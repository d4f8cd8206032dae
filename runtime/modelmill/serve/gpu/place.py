"""A module that was loaded on the CPU, moved to the GPU."""

from torch import nn

from modelmill.serve.gpu.lane import Cuda
from modelmill.serve.gpu.model import GpuModel
from modelmill.serve.gpu.trial import try_out
from modelmill.signature import Signature


def on_gpu(module: nn.Module, *, signature: Signature) -> GpuModel:
    trial = try_out(module, signature)
    # The lane after the weights: it begins by waiting until they are there.
    return GpuModel(module.to("cuda"), signature=signature, lane=Cuda(), trial=trial)
