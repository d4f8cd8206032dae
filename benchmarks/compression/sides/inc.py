"""Intel neural-compressor 3.x for torch: its export, prepare, calibrate and convert, compiled as it asks for."""

import functools
import sys

import torch
from neural_compressor.torch.export import export
from neural_compressor.torch.quantization import convert, get_default_dynamic_config, get_default_static_config, prepare

from benchmarks.compression.side import Make, serve
from benchmarks.compression.workloads import Call, Inputs, Workload

CONFIGS = {"static": get_default_static_config, "dynamic": get_default_dynamic_config}


def quantized(workload: Workload, *, mode: str) -> Make:
    def make(inputs: Inputs) -> Call:
        with torch.no_grad():
            exported = export(workload.baseline(), example_inputs=inputs)
            prepared = prepare(exported, quant_config=CONFIGS[mode]())
            for batch in workload.calibration(len(inputs[0])):
                prepared(*batch)
            converted = convert(prepared)
        compiled: Call = torch.compile(converted, dynamic=False)
        return compiled

    return make


if __name__ == "__main__":
    serve(functools.partial(quantized, mode=sys.argv[2]), workload=sys.argv[1])
