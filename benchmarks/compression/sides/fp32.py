"""The uncompressed model, as fast as torch makes it: eager and channels-last, or inductor with weights frozen and packed."""

import sys

import torch

from benchmarks.compression.side import Make, serve
from benchmarks.compression.workloads import Call, Inputs, Workload


def eager(workload: Workload) -> Make:
    module = workload.baseline()
    return lambda inputs: module


def inductor(workload: Workload) -> Make:
    def make(inputs: Inputs) -> Call:
        compiled: Call = torch.compile(workload.baseline(), dynamic=False)
        return compiled

    return make


if __name__ == "__main__":
    serve({"eager": eager, "inductor": inductor}[sys.argv[2]], workload=sys.argv[1])
