"""A module that was loaded on the CPU, moved to the GPU."""

import torch
from torch import nn

from modelmill.compress.device import counted, to_device
from modelmill.serve.gpu.lane import Cuda
from modelmill.serve.gpu.model import GpuModel
from modelmill.serve.gpu.trial import try_out
from modelmill.signature import Signature


def on_gpu(module: nn.Module, *, signature: Signature) -> GpuModel:
    trial = try_out(module, signature)
    ways = counted(to_device(module, torch.device("cuda", torch.cuda.current_device())))
    # The lane after the weights: it begins by waiting until they are there.
    return GpuModel(module, signature=signature, lane=Cuda(), trial=trial, ways=ways)
